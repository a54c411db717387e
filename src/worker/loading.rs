//! A share of a load in its worker: what its connections have in common, and where what they
//! measure goes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;
use tokio::sync::mpsc::Sender;

use super::table::Flow;
use super::turn::Turn;
use super::{NewLoad, Report, TargetId};
use crate::event::{Event, Failure, FlowId};
use crate::load::Generator;
use crate::stats::LoadSeries;
use crate::sys::clock;
use crate::sys::socket::{self, ProberError, SocketOptions};
use crate::time::Mono;

/// A share of a load.
pub(super) struct Loading {
    number: TargetId,
    pub(super) generator: Generator,
    options: SocketOptions,
    pub(super) series: Arc<LoadSeries>,
    /// Why there was no socket was logged: the same again is not news.
    logged: bool,
    told_finished: bool,
}

impl Loading {
    pub(super) fn new(new: NewLoad) -> Self {
        let NewLoad { load, settings, options, series } = new;
        let generator = Generator::new(settings);
        Self { number: load, generator, options, series, logged: false, told_finished: false }
    }

    /// Moves what a step measured to the series, and says once that the share is finished.
    pub(super) fn record(&mut self, reports: &Sender<Report>) {
        for latency_ns in self.generator.drain_latencies_ns() {
            self.series.record(latency_ns);
        }
        self.series.publish(self.generator.counters());
        if self.generator.is_finished() && !self.told_finished {
            self.told_finished = reports.try_send(Report::Finished(self.number)).is_ok();
        }
    }

    /// A socket for one more connection.
    pub(super) fn socket(&mut self, to: SocketAddr) -> Result<Socket, Failure> {
        let made = socket::prober(to, &self.options).and_then(|socket| {
            if self.generator.resets_connections() {
                socket.set_linger(Some(Duration::ZERO)).map_err(ProberError::from)?;
            }
            Ok(socket)
        });
        made.map_err(|error| {
            if !self.logged {
                self.logged = true;
                tracing::warn!(%to, %error, "no socket; trying again");
            }
            Failure::Local(error.errno())
        })
    }
}

impl Turn {
    pub(super) fn add_load(&mut self, new: NewLoad) {
        self.table.loading = Some(Loading::new(new));
        self.go_on_loading();
    }

    /// Makes the connections of a load, and has all of them begin together.
    pub(super) fn go_on_loading(&mut self) {
        while let Some(loading) = &mut self.table.loading {
            let Some(connection) = loading.generator.next_connection() else { break };
            let flow = self.table.insert(Flow::Load(Box::new(connection)));
            self.step(flow, Event::Due(Mono::default()), clock::now());
        }
        let Some(loading) = &mut self.table.loading else { return };
        if loading.generator.starts(clock::mono()) {
            loading.series.publish(loading.generator.counters());
            self.step_all_of_load();
        }
    }

    /// Has every connection of a load look at the time.
    fn step_all_of_load(&mut self) {
        for index in 0..self.table.flows.len() {
            if matches!(self.table.flows[index], Flow::Load(_)) {
                let flow = FlowId(u32::try_from(index).expect("flows are numbered by u32"));
                self.step(flow, Event::Due(Mono::default()), clock::now());
            }
        }
    }

    /// Ends the measured time of a load.
    pub(super) fn stop_loading(&mut self) {
        if let Some(loading) = &mut self.table.loading {
            loading.generator.stop(clock::mono());
            self.step_all_of_load();
            self.record_load();
        }
    }

    /// Begins to connect; a failure to open a socket is returned.
    pub(super) fn connect_loading(&mut self, flow: FlowId, to: SocketAddr) -> Option<Failure> {
        match self.table.loading.as_mut()?.socket(to) {
            Ok(socket) => {
                self.io.connect(flow, socket, to);
                None
            }
            Err(failure) => Some(failure),
        }
    }

    /// Moves what a connection of a load measured to its series.
    pub(super) fn record_load(&mut self) {
        if let Some(loading) = &mut self.table.loading {
            loading.record(&self.outlets.reports);
        }
    }
}
