//! Logs to standard error or files, traces to OTLP or a file, metrics to OTLP beside Prometheus.

use std::path::PathBuf;
use std::time::Duration;

use aistack_api::server::TelemetryConfig;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use tokio::task::JoinHandle;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::log_files::LogWriter;
use crate::otlp_file::OtlpFileExporter;
use crate::zap_lines::ZapLines;
use crate::{CommonArgs, Component, LogFormat, Metrics, otlp_metrics};

/// Longest time that a span waits before it is written to a file.
const FILE_DELAY: Duration = Duration::from_millis(500);

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter is malformed.
    #[error("--log-level {given}: {source}\n  use error, warn, info, debug, trace, or target=level")]
    Filter {
        /// What was given.
        given: String,
        /// Why it was refused.
        source: ParseError,
    },
    /// The OTLP exporter refused its endpoint.
    #[error("server.telemetry.otlp_endpoint {endpoint}: {source}")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// Why it was refused.
        source: ExporterBuildError,
    },
    /// A file for log lines could not be opened.
    #[error("log file {}: {source}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The trace file could not be opened.
    #[error("server.telemetry.otlp_file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// Keeps the exporters alive; [`Telemetry::flush`] sends what is left.
#[derive(Debug)]
pub struct Telemetry {
    traces: SdkTracerProvider,
    metrics: Option<JoinHandle<()>>,
}

impl Telemetry {
    /// Sends what is buffered. Takes at most a few seconds, whatever the collector does.
    pub async fn flush(self) {
        if let Some(task) = self.metrics {
            task.abort();
        }
        // The provider blocks while its worker sends.
        let _ = tokio::task::spawn_blocking(move || self.traces.shutdown()).await;
    }
}

/// Installs the process's subscriber and exporters. A second call in a process (tests) leaves the first in place.
pub fn init(
    component: Component,
    args: &CommonArgs,
    config: &TelemetryConfig,
    metrics: &Metrics,
) -> Result<Telemetry, TelemetryError> {
    let given = args.log_level.as_deref().unwrap_or("info");
    let filter = EnvFilter::try_new(given)
        .map_err(|source| TelemetryError::Filter { given: given.to_owned(), source })?;
    let resource = resource(component, config);
    let traces = tracer_provider(config, resource.clone())?;

    let to_terminal = args.log_outputs.is_terminal();
    let format = args.log_format.unwrap_or(if to_terminal { LogFormat::Pretty } else { LogFormat::Json });
    let writer =
        LogWriter::open(&args.log_outputs).map_err(|(path, source)| TelemetryError::Log { path, source })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Pretty => {
            let colours = to_terminal && std::env::var_os("NO_COLOR").is_none();
            lines.with_ansi(colours).with_target(false).boxed()
        }
        LogFormat::Json => lines
            .with_ansi(false)
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
        LogFormat::Zap => lines.with_ansi(false).event_format(ZapLines::Json).boxed(),
        LogFormat::Console => lines.with_ansi(false).event_format(ZapLines::Console).boxed(),
    };
    let tracer = traces.tracer(component.name);
    // Where in the code and on which thread a span began tells a reader of traces nothing, and costs a kilobyte a span.
    let spans = tracing_opentelemetry::layer()
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_tracer(tracer);
    let spans = spans.with_filter(
        // The exporter's own requests must not be traced: each export would beget another.
        EnvFilter::new("info,h2=off,hyper=off,tonic=off,tower=off,opentelemetry=off"),
    );
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans).try_init();

    let metrics = config
        .otlp_endpoint
        .as_ref()
        .map(|endpoint| tokio::spawn(otlp_metrics::push(endpoint.clone(), resource, metrics.clone())));
    Ok(Telemetry { traces, metrics })
}

fn resource(component: Component, config: &TelemetryConfig) -> Resource {
    let mut attributes = vec![KeyValue::new("service.version", component.version)];
    if let Some(instance) = &config.instance {
        attributes.push(KeyValue::new("service.instance.id", instance.clone()));
    }
    let name = config.service_name.clone().unwrap_or_else(|| component.name.to_owned());
    Resource::builder().with_service_name(name).with_attributes(attributes).build()
}

fn tracer_provider(
    config: &TelemetryConfig,
    resource: Resource,
) -> Result<SdkTracerProvider, TelemetryError> {
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)));
    let mut provider = SdkTracerProvider::builder().with_resource(resource).with_sampler(sampler);
    if let Some(endpoint) = &config.otlp_endpoint {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .map_err(|source| TelemetryError::Endpoint { endpoint: endpoint.clone(), source })?;
        provider = provider.with_batch_exporter(exporter);
    }
    if let Some(path) = &config.otlp_file {
        let exporter = OtlpFileExporter::open(path, config.otlp_file_max_mib << 20)
            .map_err(|source| TelemetryError::File { path: path.clone(), source })?;
        let often = BatchConfigBuilder::default().with_scheduled_delay(FILE_DELAY).build();
        provider = provider
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(often).build());
    }
    Ok(provider.build())
}
