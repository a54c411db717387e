//! A program with a relay of its own: `cargo run --example relay 127.0.0.1:8080 10.0.0.1:80
//! 10.0.0.2:80` passes connections on to two upstreams, prints what changes once a second, and
//! ends in order by Ctrl-C.

#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::time::Duration;

use rttscope::relayer::{Balance, Relay};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut addresses = std::env::args().skip(1);
    let listen = addresses.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let mut builder = Relay::builder()
        .listen(listen)?
        .balance(Balance::LowestLatency)
        .grace(Duration::from_secs(10));
    for upstream in addresses {
        builder = builder.upstream(upstream)?;
    }
    let relay = builder.bind().await?;
    println!("relaying what connects to {}", relay.local_addr());
    let (stop, mut snapshots) = (relay.stopper(), relay.snapshots());
    tokio::spawn(async move {
        while snapshots.changed().await.is_ok() {
            for listener in snapshots.borrow_and_update().iter() {
                for upstream in &listener.upstreams {
                    let counters = &upstream.counters;
                    let connect = upstream.connect.as_ref().and_then(|times| times.quantile(0.5));
                    println!(
                        "{}: {} open, {} bytes up, {} down, connecting takes {:?}",
                        upstream.upstream,
                        counters.connections_active,
                        counters.upstream_written_bytes,
                        counters.client_written_bytes,
                        connect.map(Duration::from_nanos),
                    );
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.shutdown();
        }
    });
    let ended = relay.run().await?;
    println!("{} connections; {} had not finished", ended.connections, ended.cut);
    Ok(())
}
