//! Stands in for every component in the tests of the runner: it listens where its config says, answers its probes, and
//! misbehaves when a file tells it to.
//!
//! Files in `$STANDIN_CONTROL`: `<pod>.crash` ends it at the start, `<pod>.deaf` makes its probes fail, `<pod>.lazy` makes
//! it ignore SIGTERM. What it does is appended to `journal`.

use std::io::Write;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let control = PathBuf::from(std::env::var_os("STANDIN_CONTROL").expect("the test sets STANDIN_CONTROL"));
    let (_, pod) = std::env::vars().find(|(name, _)| name.ends_with("__INSTANCE")).expect("a pod name");
    let file = std::env::args().skip_while(|arg| arg != "--config").nth(1).expect("--config FILE");
    let config = std::fs::read_to_string(file)?;
    println!("{pod} starts");
    journal(&control, &format!("{pod} starts"));
    if control.join(format!("{pod}.crash")).exists() {
        eprintln!("told to crash");
        std::process::exit(7);
    }
    for line in config.lines().map(str::trim) {
        let Some((key, address)) = line.split_once(": ") else { continue };
        if key.contains("listen") && key != "listen_peer" {
            let listener = TcpListener::bind(address).await?;
            tokio::spawn(answer(listener, control.join(format!("{pod}.deaf")), pod.clone()));
        }
    }
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        terminate.recv().await;
        journal(&control, &format!("{pod} stops"));
        if !control.join(format!("{pod}.lazy")).exists() {
            return Ok(());
        }
    }
}

fn journal(control: &Path, line: &str) {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(control.join("journal"));
    file.and_then(|mut file| writeln!(file, "{line}")).expect("the journal takes a line");
}

async fn answer(listener: TcpListener, deaf: PathBuf, pod: String) {
    while let Ok((mut client, _)) = listener.accept().await {
        let mut request = [0; 1024];
        let _ = client.read(&mut request).await;
        let reply = if deaf.exists() {
            "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\ndeaf".to_owned()
        } else {
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{pod}")
        };
        let _ = client.write_all(reply.as_bytes()).await;
    }
}
