//! A Service with several pods: one loopback port, connections handed round the pods that are Ready.

use std::net::Ipv4Addr;
use std::rc::Rc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::board::Board;
use super::plan::ProxyPlan;
use super::state::Phase;

/// Serves until the task is dropped.
pub async fn serve(plan: ProxyPlan, listener: TcpListener, board: Rc<Board>) {
    let mut turn = 0_usize;
    loop {
        let Ok((mut client, _)) = listener.accept().await else { continue };
        let ready: Vec<u16> = plan
            .backends
            .iter()
            .filter(|(pod, _)| board.phase(pod) == Phase::Ready)
            .map(|(_, port)| *port)
            .collect();
        // Nobody is ready: the connection is closed, as a Service without endpoints refuses it.
        let Some(port) = (!ready.is_empty()).then(|| ready[turn % ready.len()]) else { continue };
        turn = turn.wrapping_add(1);
        tokio::task::spawn_local(async move {
            if let Ok(mut pod) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                // Either side hanging up ends the exchange; there is nobody to tell.
                let _ = copy_bidirectional(&mut client, &mut pod).await;
            }
        });
    }
}
