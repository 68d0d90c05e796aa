//! What a pod's containers are to do next: decisions alone, without processes and clocks.
//!
//! * Init containers run one after the other; a plain one must end well before the next begins, a
//!   sidecar (`restartPolicy: Always`) must have passed its start.
//! * The others begin in their order; one that has something to do after its start holds up the next.
//! * What ends is started again as its policy says: at once, and from then on with doubling pauses.
//! * When all others have ended for good, sidecars are told to end, the last one first.
//! * A pod that is told to end tells its containers at once and then its sidecars, the last one first;
//!   what still runs after the grace period is killed.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

/// Pause before the second restart of a container, which doubles with every further one. A kubelet's is
/// ten seconds.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause. A kubelet's is five minutes.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Ends well before anything behind it begins.
    Init,
    /// Is there as long as the pod.
    Sidecar,
    /// What the pod is for.
    Main,
}

/// When a container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    Always,
    OnFailure,
    Never,
}

/// What is to be done to a container, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Start(usize),
    /// Asks it to end, after what it does before that.
    Stop(usize),
    Kill(usize),
}

/// What becomes of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

/// One container.
#[derive(Clone, Debug)]
pub(super) struct Container {
    role: Role,
    state: State,
    ready: bool,
    /// What is behind it need not wait any more, whatever happens to it.
    passed: bool,
    restarts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Running {
        stopping: bool,
        killed: bool,
    },
    /// `again`: when it is started again.
    Ended {
        code: i32,
        again: Option<Instant>,
    },
}

impl Container {
    fn new(role: Role) -> Self {
        Self {
            role,
            state: State::Waiting,
            ready: false,
            passed: false,
            restarts: 0,
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn has_passed(&self) -> bool {
        self.passed
    }

    pub(super) fn restarts(&self) -> u32 {
        self.restarts
    }

    fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    fn begin(&mut self) {
        self.state = State::Running {
            stopping: false,
            killed: false,
        };
    }

    /// Whether it has ended, and well if that is wanted, never to come back.
    fn code(&self) -> Option<i32> {
        match self.state {
            State::Ended { code, again: None } => Some(code),
            _ => None,
        }
    }
}

/// A pod's containers, in the order in which they begin.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    containers: Vec<Container>,
    policy: Restart,
    grace: Duration,
    is_told_to_end: bool,
    kill_at: Option<Instant>,
}

impl Machine {
    /// `grace`: what an end takes at most where nobody says otherwise.
    pub(super) fn new(
        roles: impl IntoIterator<Item = Role>,
        policy: Restart,
        grace: Duration,
    ) -> Self {
        Self {
            containers: roles.into_iter().map(Container::new).collect(),
            policy,
            grace,
            is_told_to_end: false,
            kill_at: None,
        }
    }

    pub(super) fn containers(&self) -> &[Container] {
        &self.containers
    }

    /// A container has done what it had to before the next one begins.
    pub(super) fn passed(&mut self, number: usize) {
        let container = &mut self.containers[number];
        if container.is_running() && container.role != Role::Init {
            container.passed = true;
        }
    }

    /// A container takes traffic, or not.
    pub(super) fn ready(&mut self, number: usize, ready: bool) {
        let container = &mut self.containers[number];
        container.ready = ready && container.is_running();
    }

    /// A container's process has ended.
    pub(super) fn ended(&mut self, number: usize, code: i32, now: Instant) {
        let is_over = self.is_ending();
        let policy = self.policy;
        let container = &mut self.containers[number];
        container.ready = false;
        container.passed |= container.role == Role::Init && code == 0;
        let comes_back = match (container.role, policy) {
            (Role::Sidecar, _) | (Role::Main, Restart::Always) => true,
            (Role::Init | Role::Main, Restart::Never) => false,
            (Role::Init, _) | (Role::Main, Restart::OnFailure) => code != 0,
        };
        let again = (comes_back && !is_over).then(|| now + pause(container.restarts));
        container.state = State::Ended { code, again };
    }

    /// The pod is told to end, within this time; a shorter one that comes later holds.
    pub(super) fn end(&mut self, now: Instant, grace: Duration) {
        self.is_told_to_end = true;
        let at = now + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
    }

    /// What to do now. Whoever asks does it.
    pub(super) fn next(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if !self.is_ending() {
            self.go_on(now, &mut actions);
        }
        if self.is_ending() {
            let kill_at = *self.kill_at.get_or_insert(now + self.grace);
            self.wind_down(now >= kill_at, &mut actions);
        }
        actions
    }

    /// When to ask again, if nothing happens before.
    pub(super) fn wake(&self) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let ending = self.is_ending().then_some(self.kill_at).flatten();
        let restarts = self.containers.iter().filter_map(|it| match it.state {
            State::Ended { again, .. } => again,
            _ => None,
        });
        restarts.chain(ending).min()
    }

    pub(super) fn phase(&self) -> Phase {
        let mut mains = self.containers.iter().filter(|it| it.role == Role::Main);
        if self.is_over() {
            let all_well = mains.all(|it| it.code() == Some(0));
            return [Phase::Failed, Phase::Succeeded][usize::from(all_well)];
        }
        let has_begun = mains.any(|it| it.state != State::Waiting);
        [Phase::Pending, Phase::Running][usize::from(has_begun)]
    }

    /// Whether every container that stays takes traffic.
    pub(super) fn is_ready(&self) -> bool {
        let mut staying = self.containers.iter().filter(|it| it.role != Role::Init);
        staying.all(Container::is_ready)
    }

    /// Whether everything that has to come before the main containers has.
    pub(super) fn is_initialised(&self) -> bool {
        let mut before = self.containers.iter().filter(|it| it.role != Role::Main);
        before.all(Container::has_passed)
    }

    /// Whether nothing runs and nothing will.
    pub(super) fn is_over(&self) -> bool {
        self.is_ending() && !self.containers.iter().any(Container::is_running)
    }

    /// Whether nothing is started any more.
    fn is_ending(&self) -> bool {
        self.is_told_to_end || self.is_done() || self.has_failed()
    }

    fn is_done(&self) -> bool {
        let mut mains = self.containers.iter().filter(|it| it.role == Role::Main);
        mains.all(|it| it.code().is_some())
    }

    fn has_failed(&self) -> bool {
        let mut inits = self.containers.iter().filter(|it| it.role == Role::Init);
        inits.any(|it| it.code().is_some_and(|code| code != 0))
    }

    fn go_on(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for (number, container) in self.containers.iter_mut().enumerate() {
            match container.state {
                State::Waiting => {
                    actions.push(Action::Start(number));
                    container.begin();
                }
                State::Ended {
                    again: Some(again), ..
                } if again <= now => {
                    actions.push(Action::Start(number));
                    container.restarts += 1;
                    container.begin();
                }
                State::Running { .. } | State::Ended { .. } => {}
            }
            if !container.passed {
                return;
            }
        }
    }

    fn wind_down(&mut self, must_die: bool, actions: &mut Vec<Action>) {
        let mut is_anyone_left = false;
        for (number, container) in self.containers.iter_mut().enumerate() {
            if container.role != Role::Sidecar {
                is_anyone_left |= container.is_running();
                stop(number, container, must_die, actions);
            }
        }
        for (number, container) in self.containers.iter_mut().enumerate().rev() {
            if container.role == Role::Sidecar && (must_die || !is_anyone_left) {
                is_anyone_left |= container.is_running();
                stop(number, container, must_die, actions);
            }
        }
        for container in &mut self.containers {
            if let State::Ended { again, .. } = &mut container.state {
                *again = None;
            }
        }
    }
}

/// Asks a container to end, once, or kills it, once.
fn stop(number: usize, container: &mut Container, must_die: bool, actions: &mut Vec<Action>) {
    let State::Running { stopping, killed } = &mut container.state else {
        return;
    };
    if must_die && !*killed {
        *killed = true;
        actions.push(Action::Kill(number));
    } else if !*stopping && !*killed {
        *stopping = true;
        actions.push(Action::Stop(number));
    }
}

/// The pause before a container is started again that was so often.
fn pause(restarts: u32) -> Duration {
    match restarts.checked_sub(1) {
        None => Duration::ZERO,
        Some(doubled) => FIRST_PAUSE
            .saturating_mul(2_u32.saturating_pow(doubled))
            .min(LONGEST_PAUSE),
    }
}
