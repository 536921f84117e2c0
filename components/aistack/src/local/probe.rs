//! One question to a pod: an HTTP GET, or a TCP connection.

use std::net::Ipv4Addr;

use aistack_api::cause::innermost;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::plan::ProbePlan;

/// What a pod answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As it should.
    Good,
    /// Not as it should, or not at all.
    Bad(String),
}

/// Asks once. Any status from 200 to 399 is good, as for the kubelet.
pub async fn ask(probe: &ProbePlan) -> Answer {
    match timeout(probe.timeout, exchange(probe)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Answer::Bad(format!("port {}: {}", probe.port, innermost(&error))),
        Err(_) => Answer::Bad(format!("port {}: no answer within {} s", probe.port, probe.timeout.as_secs())),
    }
}

async fn exchange(probe: &ProbePlan) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, probe.port)).await?;
    if probe.path.is_empty() {
        return Ok(Answer::Good);
    }
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nUser-Agent: aistack-probe\r\nConnection: close\r\n\r\n",
        probe.path, probe.port
    );
    stream.write_all(request.as_bytes()).await?;
    let mut reply = Vec::new();
    stream.take(4096).read_to_end(&mut reply).await?;
    Ok(judge(&String::from_utf8_lossy(&reply)))
}

/// Judges the head of an HTTP/1.1 reply.
fn judge(reply: &str) -> Answer {
    let status = reply
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse::<u16>().ok());
    match status {
        Some(200..=399) => Answer::Good,
        Some(code) => {
            let body = reply.split_once("\r\n\r\n").map(|(_, body)| body.trim()).unwrap_or_default();
            let first = body.lines().next().unwrap_or_default();
            Answer::Bad(format!("{code} {first}").trim().to_owned())
        }
        None => Answer::Bad("an answer that is not HTTP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        assert_eq!(judge("HTTP/1.1 200 OK\r\n\r\nok"), Answer::Good);
        assert_eq!(judge("HTTP/1.0 302 Found\r\n\r\n"), Answer::Good);
        assert_eq!(
            judge("HTTP/1.1 503 No\r\n\r\nengine: loading\nmore"),
            Answer::Bad("503 engine: loading".into())
        );
        assert_eq!(judge("SSH-2.0"), Answer::Bad("an answer that is not HTTP".into()));
        assert_eq!(judge(""), Answer::Bad("an answer that is not HTTP".into()));
    }
}
