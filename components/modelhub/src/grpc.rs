//! The gRPC door: `platform.v1.InferenceService` in front of every engine.
//!
//! Thin on purpose: a request becomes the OpenAI call that the HTTP door would have taken, and goes the same way through keys,
//! limits, routing, retries and metering. The wire's types stop here.

mod openai;

use std::pin::Pin;

use aistack_chassis::Ctx;
use axum::Router;
use futures::Stream;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};
use tonic_health::ServingStatus;
use wire::platform::v1::inference_service_server::{InferenceService, InferenceServiceServer};
use wire::platform::v1::{EmbedRequest, EmbedResponse, GenerateChunk, InferRequest, InferResponse};

use self::openai::{Outgoing, Words};
use crate::error::ApiError;
use crate::gateway::{Call, Caller, Front, engine_error};

/// Full name of the service, as health checks and reflection know it.
const SERVICE: &str = "platform.v1.InferenceService";

/// Why the door cannot open.
#[derive(Debug, thiserror::Error)]
#[error("gRPC reflection: {0}")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

/// The service with gRPC health and reflection. Health says `NOT_SERVING` once the process is asked to stop.
pub async fn router(front: Front, ctx: &Ctx) -> Result<Router, ReflectionError> {
    let limit = usize::try_from(front.gateway.limits().max_request_bytes).unwrap_or(usize::MAX);
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in ["", SERVICE] {
        reporter.set_service_status(service, ServingStatus::Serving).await;
    }
    let shutdown = ctx.shutdown.clone();
    tokio::spawn(async move {
        shutdown.cancelled().await;
        for service in ["", SERVICE] {
            reporter.set_service_status(service, ServingStatus::NotServing).await;
        }
    });
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(wire::platform::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(SERVICE)
            .with_service_name("grpc.health.v1.Health")
    };
    let service = InferenceServiceServer::new(Door { front }).max_decoding_message_size(limit);
    Ok(Routes::new(health)
        .add_service(service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .into_axum_router())
}

/// Implements the service.
#[derive(Debug)]
struct Door {
    front: Front,
}

type Chunks = Pin<Box<dyn Stream<Item = Result<GenerateChunk, Status>> + Send>>;

#[tonic::async_trait]
impl InferenceService for Door {
    type GenerateStream = Chunks;

    async fn infer(&self, request: Request<InferRequest>) -> Result<Response<InferResponse>, Status> {
        self.infer(request).await.map(Response::new).map_err(status)
    }

    async fn generate(&self, request: Request<InferRequest>) -> Result<Response<Chunks>, Status> {
        let words = self.generate(request).await.map_err(status)?;
        // A client that leaves drops the stream, which closes the engine's connection and ends the work there.
        let chunks = futures::stream::unfold(Some(words), |words| async move {
            let mut words = words?;
            match words.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(words))),
                Ok(None) => None,
                Err(error) => Some((Err(status(error)), None)),
            }
        });
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn embed(&self, request: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        self.embed(request).await.map(Response::new).map_err(status)
    }
}

impl Door {
    async fn infer(&self, request: Request<InferRequest>) -> Result<InferResponse, ApiError> {
        let (caller, id, request) = self.open(request)?;
        let outgoing = self.checked(openai::infer(&request, false))?;
        let reply = self.whole(&caller, id, &outgoing).await?;
        openai::completion(&outgoing.model, &reply)
    }

    async fn generate(&self, request: Request<InferRequest>) -> Result<Words, ApiError> {
        let (caller, id, request) = self.open(request)?;
        let outgoing = self.checked(openai::infer(&request, true))?;
        let response = self.send(&caller, id, &outgoing).await?;
        Words::new(&outgoing.model, response).await
    }

    async fn embed(&self, request: Request<EmbedRequest>) -> Result<EmbedResponse, ApiError> {
        let (caller, id, request) = self.open(request)?;
        let outgoing = self.checked(openai::embed(&request))?;
        let reply = self.whole(&caller, id, &outgoing).await?;
        openai::embeddings(&outgoing.model, request.inputs.len(), &reply)
    }

    /// Names the caller; gives the caller's request id and the message.
    fn open<T>(&self, request: Request<T>) -> Result<(Caller, Option<HeaderValue>, T), ApiError> {
        let (metadata, _, message) = request.into_parts();
        let headers = metadata.into_headers();
        let caller = self.front.caller(&headers)?;
        Ok((caller, headers.get("x-request-id").cloned(), message))
    }

    /// Counts a message that cannot be sent on.
    fn checked(&self, outgoing: Result<Outgoing, ApiError>) -> Result<Outgoing, ApiError> {
        outgoing.map_err(|error| self.front.gateway.refuse("", error))
    }

    async fn send(
        &self,
        caller: &Caller,
        id: Option<HeaderValue>,
        outgoing: &Outgoing,
    ) -> Result<http::Response<axum::body::Body>, ApiError> {
        let Outgoing { path, model, body, stream, max_tokens } = outgoing;
        let admission = self.front.let_in(caller, model, body.len(), *max_tokens)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let accept = if *stream { "text/event-stream" } else { "application/json" };
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if let Some(id) = id {
            headers.insert("x-request-id", id);
        }
        let call =
            Call { path, model, headers: &headers, body: body.clone(), stream: *stream, session: None };
        self.front.gateway.forward(call, admission).await
    }

    /// Sends a call and reads its whole reply; an engine's refusal becomes ours, sentence kept.
    async fn whole(
        &self,
        caller: &Caller,
        id: Option<HeaderValue>,
        outgoing: &Outgoing,
    ) -> Result<bytes::Bytes, ApiError> {
        let response = self.send(caller, id, outgoing).await?;
        let status = response.status();
        let body = response.into_body().collect().await;
        let body = body.map_err(|e| openai::broke_off(&outgoing.model, &crate::innermost(&e)))?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(engine_error(&outgoing.model, status, &body)) }
    }
}

/// Our refusals as gRPC's: the same sentence, with the short name and the time to wait as metadata.
fn status(error: ApiError) -> Status {
    let code = match error.status.as_u16() {
        400 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        408 | 504 => Code::DeadlineExceeded,
        409 => Code::FailedPrecondition,
        413 | 429 | 507 => Code::ResourceExhausted,
        501 => Code::Unimplemented,
        502 | 503 => Code::Unavailable,
        _ => Code::Internal,
    };
    let mut metadata = MetadataMap::new();
    metadata.insert("error-code", MetadataValue::from_static(error.code));
    if let Some(seconds) = error.retry_after {
        metadata.insert("retry-after", MetadataValue::from(seconds));
    }
    Status::with_metadata(code, error.message, metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn a_refusal_keeps_its_sentence() {
        let cases = [
            (ApiError::invalid("c", "s"), Code::InvalidArgument),
            (ApiError::not_found("c", "s"), Code::NotFound),
            (ApiError::unavailable("c", "s", 3), Code::Unavailable),
            (ApiError::new(StatusCode::UNAUTHORIZED, "c", "s"), Code::Unauthenticated),
            (ApiError::new(StatusCode::TOO_MANY_REQUESTS, "c", "s"), Code::ResourceExhausted),
            (ApiError::new(StatusCode::GATEWAY_TIMEOUT, "c", "s"), Code::DeadlineExceeded),
            (ApiError::new(StatusCode::BAD_GATEWAY, "c", "s"), Code::Unavailable),
            (ApiError::new(StatusCode::IM_A_TEAPOT, "c", "s"), Code::Internal),
        ];
        for (error, want) in cases {
            let wait = error.retry_after;
            let status = status(error);
            assert_eq!((status.code(), status.message()), (want, "s"));
            let told = |name: &str| status.metadata().get(name).map(|v| v.to_str().expect("text").to_owned());
            assert_eq!(
                (told("retry-after"), told("error-code")),
                (wait.map(|s| s.to_string()), Some("c".into()))
            );
        }
    }
}
