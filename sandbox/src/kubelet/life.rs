//! A pod's life: what [`super::machine`] decides is done, and what happens is told to it.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1 as core;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::environment::{self, Place};
use super::machine::{Action, Machine, Role};
use super::plan::{Plan, Planned};
use super::probes::Target;
use super::volumes::{Filler, Volumes};
use super::writer::{WRITE_PAUSE, Writer};
use super::{Event, Key, Shared, images, key_of, status};
use crate::Pod;
use crate::enter::container::{self, Container, Mount};
use crate::process::Process;

/// Events of a pod that wait for being heard.
const MAX_EVENTS: usize = 64;
/// How long one look for a process's end takes, after which there is another.
const LOOK: Duration = Duration::from_secs(3600);
/// The code of a container that could not be started.
const NOT_STARTED: i32 = 128;

/// Runs a pod until it is told to end (`ends` says within what time) and has, and takes it from the API
/// server then. Dropped, it takes its processes along.
pub(super) async fn run(
    shared: Arc<Shared>,
    object: core::Pod,
    mut ends: watch::Receiver<Option<Duration>>,
) {
    let key = key_of(&object);
    let writer = Writer::new(&shared, &object);
    let life = Life::begin(&shared, object, ends.clone()).await;
    let told = match life {
        Ok(Some(life)) => life.live(&writer, &mut ends).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = told {
        tracing::warn!("pod {}/{}: {error:#}", key.0, key.1);
        writer.insist(&status::refused(&format!("{error:#}"))).await;
    }
    // What has ended by itself stays until somebody deletes it.
    if ends.wait_for(Option::is_some).await.is_ok() {
        writer.remove().await;
    }
}

struct Life {
    shared: Arc<Shared>,
    key: Key,
    object: core::Pod,
    pod: Pod,
    place: Place,
    plan: Plan,
    machine: Machine,
    volumes: Volumes,
    live: Vec<Option<Live>>,
    tell: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
}

/// A container whose process was started.
struct Live {
    target: Arc<Target>,
    process: Arc<Process>,
    /// They end with this.
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// Something that happened to a container, by its number and how often it had been started again.
type Told = (usize, u32, Event);

impl Life {
    /// Makes the pod's place and fills its volumes. `None` where it was told to end meanwhile.
    async fn begin(
        shared: &Arc<Shared>,
        object: core::Pod,
        mut ends: watch::Receiver<Option<Duration>>,
    ) -> anyhow::Result<Option<Self>> {
        let key = key_of(&object);
        let plan = Plan::read(&object)?;
        let pod = shared.node.pod(&key.1).context("making its network")?;
        if let Some(running) = shared.pods.lock().get_mut(&key) {
            running.place = Some(pod.clone());
        }
        let place = Place {
            addresses: pod.addresses().iter().map(ToString::to_string).collect(),
            host: shared.place.v4().to_string(),
            node: shared.name.clone(),
        };
        let roles = plan.containers.iter().map(|it| it.role);
        let machine = Machine::new(roles, plan.restart, plan.grace);
        let writer = Writer::new(shared, &object);
        let first = status::status(&plan, &machine, &place, "its volumes are being filled");
        writer.insist(&first).await;
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let filler = Filler {
            client: &shared.client,
            pod: &object,
            place: &place,
            dir: shared.dir.join("volumes").join(uid),
            ca: &shared.ca,
        };
        let waiting = |what: String| tracing::debug!("pod {}/{}: {what}", key.0, key.1);
        let volumes = tokio::select! {
            volumes = filler.fill(waiting) => volumes?,
            _ = ends.wait_for(Option::is_some) => return Ok(None),
        };
        let (tell, told) = mpsc::channel(MAX_EVENTS);
        Ok(Some(Self {
            shared: Arc::clone(shared),
            key,
            pod,
            place,
            live: plan.containers.iter().map(|_| None).collect(),
            plan,
            machine,
            volumes,
            object,
            tell,
            told,
        }))
    }

    /// Does and hears everything until nothing runs and nothing will.
    async fn live(
        mut self,
        writer: &Writer,
        ends: &mut watch::Receiver<Option<Duration>>,
    ) -> anyhow::Result<()> {
        let mut written = Value::Null;
        loop {
            if let Some(grace) = *ends.borrow_and_update() {
                self.machine.end(Instant::now(), grace);
            }
            loop {
                let actions = self.machine.next(Instant::now());
                if actions.is_empty() {
                    break;
                }
                for action in actions {
                    self.act(action);
                }
            }
            let now = status::status(&self.plan, &self.machine, &self.place, "");
            if now != written && writer.write(&now).await.is_ok() {
                written.clone_from(&now);
            }
            if self.machine.is_over() {
                // As long as it takes: this is what others wait for.
                writer.insist(&now).await;
                return Ok(());
            }
            let again = (now != written).then(|| Instant::now() + WRITE_PAUSE);
            let wake = self.machine.wake().into_iter().chain(again).min();
            let waking = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                told = self.told.recv() => self.hear(told.context("its own sender is open")?),
                changed = ends.changed() => changed.context("the node has ended")?,
                () = waking => {}
            }
        }
    }

    fn hear(&mut self, (number, start, event): Told) {
        let Some(container) = self.machine.containers().get(number) else {
            return;
        };
        // The process before a restart has nothing to say any more.
        if container.restarts() != start {
            return;
        }
        match event {
            Event::Passed if container.has_passed() => return,
            Event::Passed => self.machine.passed(number),
            Event::Ready(ready) => self.machine.ready(number, ready),
            Event::Ended(code) => {
                self.machine.ended(number, code, Instant::now());
                self.live[number] = None;
            }
            Event::Began | Event::Stopped | Event::Killed => {}
        }
        self.happened(number, event);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(number) => {
                if let Err(error) = self.start(number) {
                    let name = &self.plan.containers[number].spec.name;
                    tracing::warn!("container {name} of {:?}: {error:#}", self.key);
                    let log = self.shared.log(&self.key, name);
                    // Where whoever looks for a reason looks first.
                    let _ = fs::write(log, format!("not started: {error:#}\n"));
                    self.machine.ended(number, NOT_STARTED, Instant::now());
                    self.happened(number, Event::Ended(NOT_STARTED));
                }
            }
            Action::Stop(number) => {
                if let Some(live) = &mut self.live[number] {
                    let (target, process) = (Arc::clone(&live.target), Arc::clone(&live.process));
                    live.tasks.push(spawn(stop(target, process)));
                    self.happened(number, Event::Stopped);
                }
            }
            Action::Kill(number) => {
                if let Some(live) = &self.live[number] {
                    // Fails only where it has ended already.
                    let _ = live.process.kill();
                    self.happened(number, Event::Killed);
                }
            }
        }
    }

    fn start(&mut self, number: usize) -> anyhow::Result<()> {
        let planned = &self.plan.containers[number];
        let name = planned.spec.name.clone();
        let process = self.container(planned)?;
        let log = self.shared.log(&self.key, &name);
        let command = container::command(&process)?;
        let started = Arc::new(self.pod.start(&name, command, &log)?);
        if let Some(running) = self.shared.pods.lock().get_mut(&self.key) {
            running.processes.insert(name, Arc::clone(&started));
        }
        let target = Arc::new(Target {
            node: self.shared.place.clone(),
            pod: self.pod.clone(),
            planned: planned.clone(),
            process,
            images: self.shared.images.clone(),
            log,
        });
        self.happened(number, Event::Began);
        let told = Teller {
            tell: self.tell.clone(),
            number,
            start: self.machine.containers()[number].restarts(),
        };
        let attending = attend(
            Arc::clone(&target),
            Arc::clone(&started),
            told.clone(),
            self.plan.grace,
        );
        self.live[number] = Some(Live {
            target,
            process: Arc::clone(&started),
            tasks: vec![spawn(attending), spawn(await_end(started, told))],
        });
        Ok(())
    }

    /// What the process of a container is and sees.
    fn container(&self, planned: &Planned) -> anyhow::Result<Container> {
        let spec = &planned.spec;
        let hostname = ("HOSTNAME".to_owned(), self.key.1.clone());
        let common: Vec<_> = self
            .shared
            .common
            .iter()
            .cloned()
            .chain([hostname])
            .collect();
        let mut env = environment::resolve(&common, spec, &self.object, &self.place)?;
        let command = environment::expand_all(spec.command.as_deref(), &env);
        let args = environment::expand_all(spec.args.as_deref(), &env);
        let image = spec.image.as_deref().unwrap_or_default();
        let (name, program, mut args) = self.shared.images.find(image, &command, &args)?;
        let mut mounts = self.volumes.mounts(spec);
        mounts.insert(
            0,
            Mount {
                source: self.shared.hosts.clone(),
                target: "/etc/hosts".into(),
                read_only: true,
            },
        );
        let context = spec.security_context.as_ref();
        let mut user = planned.user;
        if !self.shared.has_users {
            user = None;
            images::tell_by_mark(&name, &mut args, &mut env);
        }
        // Without users of its own the mark needs what they would not.
        let capabilities = planned.capabilities().filter(|_| self.shared.has_users);
        Ok(Container {
            program,
            name,
            args,
            env,
            mounts,
            user,
            capabilities,
            no_new_privileges: context.and_then(|it| it.allow_privilege_escalation) == Some(false),
            read_only_root: context.and_then(|it| it.read_only_root_filesystem) == Some(true),
        })
    }

    fn happened(&self, number: usize, event: Event) {
        let name = &self.plan.containers[number].spec.name;
        self.shared.happened(&self.key, name, event);
    }
}

/// Tells the pod's life about one start of one container.
#[derive(Clone)]
struct Teller {
    tell: mpsc::Sender<Told>,
    number: usize,
    start: u32,
}

impl Teller {
    async fn tell(&self, event: Event) {
        // Nobody hears any more where the pod has ended.
        let _ = self.tell.send((self.number, self.start, event)).await;
    }
}

/// Accompanies a container: its first hook, and its probes.
async fn attend(target: Arc<Target>, process: Arc<Process>, told: Teller, grace: Duration) {
    let spec = &target.planned.spec;
    let hook = spec
        .lifecycle
        .as_ref()
        .and_then(|it| it.post_start.as_ref());
    if let Some(hook) = hook
        && let Err(error) = target.hook(hook).await
    {
        tracing::warn!("the postStart hook of {}: {error:#}", spec.name);
        return end(&process, grace).await;
    }
    if target.planned.role == Role::Main {
        told.tell(Event::Passed).await;
    }
    if let Some(probe) = &spec.startup_probe {
        let (say, mut said) = watch::channel(None);
        let asking = target.follow(probe, None, |answer| {
            say.send_replace(Some(answer));
        });
        tokio::select! {
            () = asking => {}
            _ = said.wait_for(Option::is_some) => {}
        }
        let has_started = *said.borrow() == Some(true);
        if !has_started {
            return end(&process, grace).await;
        }
    }
    told.tell(Event::Passed).await;
    let readiness = async {
        let Some(probe) = &spec.readiness_probe else {
            return told.tell(Event::Ready(true)).await;
        };
        let (say, mut said) = watch::channel(false);
        let asking = target.follow(probe, Some(false), |answer| {
            say.send_replace(answer);
        });
        let telling = async {
            while said.changed().await.is_ok() {
                let ready = *said.borrow_and_update();
                told.tell(Event::Ready(ready)).await;
            }
        };
        tokio::join!(asking, telling);
    };
    let liveness = async {
        let Some(probe) = &spec.liveness_probe else {
            return;
        };
        let (say, mut said) = watch::channel(true);
        let asking = target.follow(probe, Some(true), |answer| {
            say.send_replace(answer);
        });
        let dead = async {
            // An error is as good: nobody asks any more.
            let _ = said.wait_for(|alive| !alive).await;
        };
        tokio::select! {
            () = asking => {}
            () = dead => {}
        }
        end(&process, grace).await;
    };
    tokio::join!(readiness, liveness);
}

async fn await_end(process: Arc<Process>, told: Teller) {
    use std::os::unix::process::ExitStatusExt as _;
    loop {
        match process.wait(LOOK).await {
            Ok(None) => {}
            Ok(Some(status)) => {
                let signal = status.signal().map_or(NOT_STARTED, |signal| 128 + signal);
                return told
                    .tell(Event::Ended(status.code().unwrap_or(signal)))
                    .await;
            }
            Err(_) => return told.tell(Event::Ended(NOT_STARTED)).await,
        }
    }
}

/// Does what comes before a container's end, and asks it to end.
async fn stop(target: Arc<Target>, process: Arc<Process>) {
    let lifecycle = target.planned.spec.lifecycle.as_ref();
    if let Some(hook) = lifecycle.and_then(|it| it.pre_stop.as_ref())
        && let Err(error) = target.hook(hook).await
    {
        tracing::warn!(
            "the preStop hook of {}: {error:#}",
            target.planned.spec.name
        );
    }
    // Fails only where it has ended already.
    let _ = process.terminate();
}

/// Ends one container of a pod that goes on.
async fn end(process: &Process, grace: Duration) {
    // Both fail only where it has ended already.
    let _ = process.terminate();
    tokio::time::sleep(grace).await;
    let _ = process.kill();
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}
