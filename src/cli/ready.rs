use std::time::Duration;

use crate::config::Config;

use super::{Failure, ops_port, printable, say};

/// For the ops port to accept and to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the weir that runs from this configuration whether it is ready, and prints its state.
pub(super) fn run(config: &Config) -> Result<(), Failure> {
    if config.ops_listen.port() == 0 {
        let why = "is 0, so nobody knows where weir listens: give ops.listen a port of its own";
        return Err(Failure::because("--ready: the ops port", why));
    }
    let endpoint = ops_port::endpoint(config.ops_listen, config.ports.ops_tls.as_ref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("runtime", error))?;
    let answered = runtime.block_on(async {
        let asked = async { endpoint.connect().await?.get("/readyz", None).await };
        let answered = tokio::time::timeout(PATIENCE, asked).await;
        answered.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
    });
    let (status, state) = answered.map_err(|error| Failure::because("/readyz", error))?;
    let state = printable(String::from_utf8_lossy(&state).trim());
    if status == 200 {
        say(&format!("{state}\n"));
        return Ok(());
    }
    Err(Failure::Failed(format!("not ready: {state}")))
}
