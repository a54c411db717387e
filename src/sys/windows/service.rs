//! The program as a service of Windows: installed, started and stopped through the service
//! manager, and telling it how far it is. Failures go to the Event Log too, where people look:
//! a service has no terminal.

use std::ffi::OsString;
use std::io;
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use windows_service::service::{
    Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceControl, ServiceControlAccept,
    ServiceErrorControl, ServiceExitCode, ServiceFailureActions, ServiceFailureResetPeriod,
    ServiceInfo, ServiceStartType, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{
    self, ServiceControlHandlerResult, ServiceStatusHandle,
};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_service::{define_windows_service, service_dispatcher};
use windows_sys::Win32::Foundation::ERROR_SUCCESS;
use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, RegisterEventSourceW, ReportEventW,
};
use windows_sys::Win32::System::Registry::{
    HKEY_LOCAL_MACHINE, REG_DWORD, REG_EXPAND_SZ, RegDeleteTreeW, RegSetKeyValueW,
};

use crate::sys::supervisor::Work;

/// What the service manager's thread is to do; it takes it from here.
static WAITING: Mutex<Option<(String, Work)>> = Mutex::new(None);
/// What came of it.
static ENDED: Mutex<Option<Result<(), String>>> = Mutex::new(None);
/// The line to the service manager, once it has started us.
static MANAGER: OnceLock<ServiceStatusHandle> = OnceLock::new();
static STOP: Notify = Notify::const_new();

define_windows_service!(entry, be_service);

pub(in crate::sys) fn ready() {
    tell(ServiceState::Running, ServiceExitCode::NO_ERROR);
}

pub(in crate::sys) fn stopping() {
    tell(ServiceState::StopPending, ServiceExitCode::NO_ERROR);
}

/// The service manager of Windows asks for nothing of this kind.
pub(in crate::sys) const fn alive() {}

/// See [`alive`].
pub(in crate::sys) const fn watchdog() -> Option<Duration> {
    None
}

/// Whether the service manager started us.
pub(in crate::sys) fn is_service() -> bool {
    MANAGER.get().is_some()
}

/// Completes when the service manager asks for the end.
pub(in crate::sys) async fn stop_asked() {
    STOP.notified().await;
}

pub(in crate::sys) fn install(name: &str, arguments: &[OsString]) -> io::Result<()> {
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let manager = ServiceManager::local_computer(None::<&str>, access).map_err(plain)?;
    let mut launch_arguments: Vec<OsString> =
        ["service", "run", "--name", name, "--"].map(OsString::from).to_vec();
    launch_arguments.extend_from_slice(arguments);
    let info = ServiceInfo {
        name: name.into(),
        display_name: name.into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: std::env::current_exe()?,
        launch_arguments,
        dependencies: Vec::new(),
        // Probing needs no privilege.
        account_name: Some("NT AUTHORITY\\LocalService".into()),
        account_password: None,
    };
    let service = manager.create_service(&info, ServiceAccess::ALL_ACCESS).map_err(plain)?;
    if let Err(error) = finish_installing(&service, name) {
        // Half a service is worse than none; the first error is the one to tell.
        let _ = service.delete();
        return Err(error);
    }
    Ok(())
}

pub(in crate::sys) fn uninstall(name: &str) -> io::Result<()> {
    let service = open(name, ServiceAccess::ALL_ACCESS)?;
    if service.query_status().map_err(plain)?.current_state != ServiceState::Stopped {
        stop(name)?;
    }
    service.delete().map_err(plain)?;
    let key = wide(&source_key(name));
    // SAFETY: the key's name ends with a zero and lives until after the call.
    let code = unsafe { RegDeleteTreeW(HKEY_LOCAL_MACHINE, key.as_ptr()) };
    outcome(code)
}

pub(in crate::sys) fn start(name: &str) -> io::Result<()> {
    let service = open(name, ServiceAccess::START | ServiceAccess::QUERY_STATUS)?;
    service.start::<&str>(&[]).map_err(plain)?;
    let status = settled(&service, ServiceState::StartPending)?;
    if status.current_state == ServiceState::Running {
        return Ok(());
    }
    let code = match status.exit_code {
        ServiceExitCode::Win32(code) | ServiceExitCode::ServiceSpecific(code) => code,
    };
    let message = format!("it ended at once with code {code}; the Event Log says why");
    Err(io::Error::other(message))
}

pub(in crate::sys) fn stop(name: &str) -> io::Result<()> {
    let service = open(name, ServiceAccess::STOP | ServiceAccess::QUERY_STATUS)?;
    service.stop().map_err(plain)?;
    let mut status = settled(&service, ServiceState::StopPending)?;
    if status.current_state == ServiceState::Running {
        // It has not begun to stop when it was first looked at.
        status = settled(&service, ServiceState::Running)?;
    }
    if status.current_state == ServiceState::StopPending {
        status = settled(&service, ServiceState::StopPending)?;
    }
    if status.current_state == ServiceState::Stopped {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "it does not stop"))
}

pub(in crate::sys) fn run(name: &str, work: Work) -> io::Result<Result<(), String>> {
    *lock(&WAITING) = Some((name.to_owned(), work));
    match service_dispatcher::start(name, entry) {
        Ok(()) => Ok(lock(&ENDED).take().unwrap_or_else(|| Err("it was not started".to_owned()))),
        Err(error) => {
            let error = plain(error);
            let waiting = lock(&WAITING).take();
            match waiting {
                // A person at a terminal started it.
                Some((_, work)) if error.raw_os_error() == Some(NOT_BY_MANAGER) => Ok(work()),
                _ => Err(error),
            }
        }
    }
}

/// On a thread of the service manager's.
fn be_service(_arguments: Vec<OsString>) {
    let Some((name, work)) = lock(&WAITING).take() else { return };
    let controls = |control| match control {
        ServiceControl::Stop | ServiceControl::Shutdown => {
            STOP.notify_one();
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    match service_control_handler::register(&name, controls) {
        Ok(handle) => {
            // Nobody else sets it: a process is one service.
            let _ = MANAGER.set(handle);
        }
        Err(error) => {
            let why = plain(error).to_string();
            log_failure(&name, &why);
            *lock(&ENDED) = Some(Err(why));
            return;
        }
    }
    tell(ServiceState::StartPending, ServiceExitCode::NO_ERROR);
    let ended = work();
    let code = match &ended {
        Ok(()) => ServiceExitCode::NO_ERROR,
        Err(why) => {
            log_failure(&name, why);
            ServiceExitCode::ServiceSpecific(COULD_NOT_WORK)
        }
    };
    *lock(&ENDED) = Some(ended);
    tell(ServiceState::Stopped, code);
}

fn tell(state: ServiceState, exit_code: ServiceExitCode) {
    let Some(manager) = MANAGER.get() else { return };
    let controls_accepted = match state {
        ServiceState::Running => ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN,
        _ => ServiceControlAccept::empty(),
    };
    let wait_hint = match state {
        ServiceState::StartPending | ServiceState::StopPending => PATIENCE,
        _ => Duration::ZERO,
    };
    let status = ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted,
        exit_code,
        checkpoint: 0,
        wait_hint,
        process_id: None,
    };
    if let Err(error) = manager.set_service_status(status) {
        tracing::warn!(%error, "the service manager does not listen");
    }
}

/// Restarted if it fails, described, and known to the Event Log.
fn finish_installing(service: &Service, name: &str) -> io::Result<()> {
    let restart = ServiceAction { action_type: ServiceActionType::Restart, delay: RESTART_DELAY };
    let actions = ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(FAILURES_FORGOTTEN),
        reboot_msg: None,
        command: None,
        actions: Some(vec![restart]),
    };
    service.set_description(DESCRIPTION).map_err(plain)?;
    let restarts = service
        .update_failure_actions(actions)
        .and_then(|()| service.set_failure_actions_on_non_crash_failures(true));
    if let Err(error) = restarts {
        // It works without.
        tracing::warn!(error = %plain(error), "the service is not restarted if it fails");
    }
    let file: Vec<u8> = wide(MESSAGES).into_iter().flat_map(u16::to_le_bytes).collect();
    set_value(name, "EventMessageFile", REG_EXPAND_SZ, &file)?;
    set_value(name, "TypesSupported", REG_DWORD, &TYPES_SUPPORTED.to_le_bytes())
}

fn open(name: &str, access: ServiceAccess) -> io::Result<Service> {
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT);
    manager.map_err(plain)?.open_service(name, access).map_err(plain)
}

/// Its status when it has left this one, or after a while.
#[expect(clippy::disallowed_methods, reason = "the service manager tells nobody of a change")]
fn settled(service: &Service, from: ServiceState) -> io::Result<ServiceStatus> {
    for _ in 0..LOOKS_MAX {
        let status = service.query_status().map_err(plain)?;
        if status.current_state != from {
            return Ok(status);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    service.query_status().map_err(plain)
}

/// Sets a value of the service's source of events.
fn set_value(name: &str, value: &str, kind: u32, bytes: &[u8]) -> io::Result<()> {
    let (key, value) = (wide(&source_key(name)), wide(value));
    let length = u32::try_from(bytes.len()).expect("a path or a number");
    // SAFETY: both names end with a zero, `bytes` has `length` bytes, and all live until after
    // the call.
    let code = unsafe {
        RegSetKeyValueW(
            HKEY_LOCAL_MACHINE,
            key.as_ptr(),
            value.as_ptr(),
            kind,
            bytes.as_ptr().cast(),
            length,
        )
    };
    outcome(code)
}

fn outcome(code: u32) -> io::Result<()> {
    if code == ERROR_SUCCESS {
        return Ok(());
    }
    Err(i32::try_from(code)
        .map_or_else(|_| io::ErrorKind::Other.into(), io::Error::from_raw_os_error))
}

/// Writes one line to the Event Log; if that fails, nobody is left to be told.
fn log_failure(name: &str, why: &str) {
    let (source, text) = (wide(name), wide(why));
    // SAFETY: the name ends with a zero and lives until after the call; no server is this one.
    let log = unsafe { RegisterEventSourceW(ptr::null(), source.as_ptr()) };
    if log.is_null() {
        return;
    }
    let strings = [text.as_ptr()];
    // SAFETY: the handle was opened above; there is one string, which ends with a zero; there are
    // neither a user nor bytes.
    unsafe {
        ReportEventW(
            log,
            EVENTLOG_ERROR_TYPE,
            0,
            EVENT_ID,
            ptr::null_mut(),
            1,
            0,
            strings.as_ptr(),
            ptr::null(),
        );
    }
    // SAFETY: the handle was opened above and is not used again.
    unsafe {
        DeregisterEventSource(log);
    }
}

/// Where the Event Log looks up a source.
fn source_key(name: &str) -> String {
    format!("SYSTEM\\CurrentControlSet\\Services\\EventLog\\Application\\{name}")
}

/// For the system: UTF-16 with a zero at its end.
fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().filter(|unit| *unit != 0).chain([0]).collect()
}

/// The system's own error, whose text says more than the crate's.
fn plain(error: windows_service::Error) -> io::Error {
    match error {
        windows_service::Error::Winapi(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidInput, other),
    }
}

/// Nothing panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const DESCRIPTION: &str = "Measures TCP round trips and answers those who measure them.";
/// `ERROR_FAILED_SERVICE_CONTROLLER_CONNECT`.
const NOT_BY_MANAGER: i32 = 1_063;
/// The exit code that goes with it on every platform.
const COULD_NOT_WORK: u32 = 3;
/// Has a message of one line for every number to 1,000, and is part of Windows.
const MESSAGES: &str = "%SystemRoot%\\System32\\EventCreate.exe";
const EVENT_ID: u32 = 1;
/// Errors, warnings and information.
const TYPES_SUPPORTED: u32 = 7;
/// What the service manager may expect a start or a stop to take.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Half a minute.
const LOOKS_MAX: u32 = 300;
const RESTART_DELAY: Duration = Duration::from_secs(5);
const FAILURES_FORGOTTEN: Duration = Duration::from_secs(3_600);
