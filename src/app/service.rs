//! Orders to the service manager, and the program as its service: a request in, the manager's
//! answer or a whole run out.

use anyhow::{Context, Result};

use super::{Verdict, run};
use crate::config::{Service, ServiceOrder};
use crate::sys::supervisor;

/// Does what was asked for.
///
/// # Errors
/// If the service manager refuses, or the service could not work.
pub fn service(request: &Service) -> Result<Verdict> {
    let name = &request.name;
    match &request.order {
        ServiceOrder::Install(arguments) => supervisor::install(name, arguments),
        ServiceOrder::Uninstall => supervisor::uninstall(name),
        ServiceOrder::Start => supervisor::start(name),
        ServiceOrder::Stop => supervisor::stop(name),
        ServiceOrder::Run(config) => {
            let work = config.clone();
            // A service that nobody answered was stopped in order all the same.
            let work = Box::new(move || match work {
                Ok(config) => run(&config).map(drop).map_err(|why| format!("{why:#}")),
                Err(bad) => Err(bad.to_string()),
            });
            let ended = supervisor::run(name, work);
            return match (ended.with_context(|| format!("service {name}"))?, config) {
                (Ok(()), _) => Ok(Verdict::Good),
                (Err(_), Err(bad)) => Err(bad.clone().into()),
                (Err(why), Ok(_)) => Err(anyhow::anyhow!(why)),
            };
        }
    }
    .with_context(|| format!("service {name}"))?;
    Ok(Verdict::Good)
}
