"""The fleet machine against chaos, and against an honest but unreliable batch system."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hpccluster.ids import JobId, JobName
from hpccluster.job import JobState, JobStatus
from hpccluster.state.fleet import actions, events
from hpccluster.state.fleet.adaptive import AdaptLimits
from hpccluster.state.fleet.events import Source
from hpccluster.state.fleet.invariants import violations
from hpccluster.state.fleet.policy import FleetPolicy
from hpccluster.state.fleet.records import Phase
from hpccluster.state.fleet.state import FleetState
from support.fleet_env import status

PROCESSES = 2
LOADS = st.builds(
    events.Load,
    queued=st.integers(0, 50),
    unfinished=st.integers(0, 60),
    expected_seconds=st.floats(0, 1000),
    idle_workers=st.frozensets(st.sampled_from([f"hpc-c-{n:04x}-{i}" for n in range(8) for i in range(PROCESSES)])),
)
LIMITS = st.builds(AdaptLimits, minimum=st.integers(0, 2), maximum=st.integers(2, 5), idle_timeout=st.just(20.0))


class Driven(RuleBasedStateMachine):
    """What both tests share: a machine, its time, and what it has asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.state = FleetState(FleetPolicy(cluster="c", processes=PROCESSES, cores=PROCESSES, idle_timeout=100.0))
        self.now = 0.0
        self.names: list[JobName] = []
        self.finished: list[actions.Finished] = []
        self.closed = False

    def tell(self, source: Source, *messages: events.FleetEvent) -> None:
        out = self.state.handle(source, messages, self.now)
        assert not violations(self.state)
        for action in out.actions:
            match action:
                case actions.Submit():
                    assert not self.closed, "submitted while closing"
                    assert action.name not in self.names, "a name was used twice"
                    self.names.append(action.name)
                case actions.Finished():
                    self.finished.append(action)
                    open_jobs = {record.name for record in self.state.jobs.values() if record.phase is not Phase.OVER}
                    assert set(action.unconfirmed) == open_jobs
                case _:
                    pass
            self.asked(action)

    def asked(self, action: actions.FleetAction) -> None:
        """For the world to react to."""

    @rule(jobs=st.integers(0, 6))
    def scale(self, jobs: int) -> None:
        self.tell(Source.USER, events.ScaleTo(jobs))

    @rule(limits=st.one_of(st.none(), LIMITS))
    def adapt(self, limits: AdaptLimits | None) -> None:
        self.tell(Source.USER, events.Adapt(limits))

    @rule(load=LOADS)
    def load(self, load: events.Load) -> None:
        self.tell(Source.ENGINE, load)

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0, 100.0, 700.0]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Source.CLOCK, events.Tick())

    @rule()
    def poll_fails(self) -> None:
        self.tell(Source.BACKEND, events.PollFailed("no answer"))

    def close(self, within: float = 30.0) -> None:
        self.closed = True
        self.tell(Source.USER, events.Close(self.now + within))

    def check_the_end(self) -> None:
        """After the deadline there is one report, whatever has happened."""
        self.now += 31
        self.tell(Source.CLOCK, events.Tick())
        assert len(self.finished) == 1


class Chaos(Driven):
    """Events about anything in any order: twice, late, wrong, about strangers."""

    ids: tuple[JobId, ...] = tuple(JobId(str(n)) for n in range(100, 108))
    some_ids = st.frozensets(st.sampled_from(ids))
    some_names = st.frozensets(st.sampled_from([JobName(f"hpc-c-{n:04x}") for n in range(8)]), max_size=5)
    one_name = st.sampled_from([JobName(f"hpc-c-{n:04x}") for n in range(8)] + [JobName("stranger")])
    one_event = st.one_of(
        st.builds(events.Submitted, one_name, st.sampled_from(ids)),
        st.builds(events.SubmitRefused, one_name, st.just("no"), st.just("HPC-X"), st.booleans()),
        st.builds(events.SubmitDoubtful, one_name, st.just("timed out")),
        st.builds(events.Found, some_names, st.dictionaries(one_name, st.sampled_from(ids), max_size=3)),
        st.builds(events.CancelReported, some_ids, some_ids, st.just("")),
        st.builds(events.LogFetched, one_name, st.just("text"), st.just("")),
        st.builds(events.WorkerJoined, st.sampled_from(["w0", "w1"]), one_name),
        st.builds(events.WorkerLeft, st.sampled_from(["w0", "w1"]), one_name, st.just("")),
        st.builds(events.Retired, some_names),
        st.builds(events.RetireFailed, some_names, st.just("no room")),
    )

    @rule(batch=st.lists(one_event, min_size=1, max_size=4))
    def anything(self, batch: list[events.FleetEvent]) -> None:
        self.tell(Source.BACKEND, *batch)

    @rule(said=st.dictionaries(st.sampled_from(ids), st.sampled_from(JobState)), age=st.sampled_from([0.0, 5.0]))
    def poll(self, said: dict[JobId, JobState], age: float) -> None:
        statuses = {job: status(job, state) for job, state in said.items()}
        self.tell(Source.BACKEND, events.Polled(statuses, self.now - age))

    @precondition(lambda self: not self.closed)
    @rule()
    def close_in_between(self) -> None:
        self.close(within=10.0)

    def teardown(self) -> None:
        self.close()
        self.check_the_end()


@dataclass
class RealJob:
    """A job in the world's batch system."""

    id: JobId
    name: JobName
    state: JobState = JobState.PENDING
    workers: set[str] = field(default_factory=set)
    cancelled: bool = False
    """It was asked to end, and will."""


class HonestWorld(Driven):
    """A batch system that tells the truth when it answers, but may not answer, be late, or act on what it seemed to lose."""

    def __init__(self) -> None:
        super().__init__()
        self.world: dict[JobId, RealJob] = {}
        self.submissions: list[JobName] = []
        self.in_flight: list[JobName] = []
        """Submissions that seemed to fail, and that a frozen controller may yet take up."""
        self.cancels: list[tuple[JobId, ...]] = []
        self.retirements: list[tuple[JobName, ...]] = []

    @initialize(jobs=st.integers(1, 4))
    def begin(self, jobs: int) -> None:
        self.scale(jobs)

    def asked(self, action: actions.FleetAction) -> None:
        match action:
            case actions.Submit():
                self.submissions.append(action.name)
            case actions.Cancel():
                assert set(action.ids) <= set(self.world), "cancelled what is not ours"
                self.cancels.append(action.ids)
            case actions.Retire():
                self.retirements.append(action.jobs)
            case _:
                pass

    def create(self, name: JobName) -> RealJob:
        job = RealJob(JobId(str(100 + len(self.world))), name)
        self.world[job.id] = job
        return job

    # ------------------------------------------------------------------------------------------------- submissions

    @precondition(lambda self: self.submissions)
    @rule(outcome=st.sampled_from(["accepted", "accepted", "refused", "doubtful", "doubtful but there"]))
    def submission_ends(self, outcome: str) -> None:
        name = self.submissions.pop(0)
        match outcome:
            case "accepted":
                self.tell(Source.BACKEND, events.Submitted(name, self.create(name).id))
            case "refused":
                self.tell(Source.BACKEND, events.SubmitRefused(name, "no"))
            case "doubtful":
                self.in_flight.append(name)
                self.tell(Source.BACKEND, events.SubmitDoubtful(name, "timed out"))
            case _:
                self.create(name)
                self.tell(Source.BACKEND, events.SubmitDoubtful(name, "timed out"))

    @precondition(lambda self: self.in_flight)
    @rule()
    def controller_thaws(self) -> None:
        self.create(self.in_flight.pop(0))

    # -------------------------------------------------------------------------------------------------- the world turns

    def some(self, *states: JobState) -> list[RealJob]:
        return [job for job in self.world.values() if job.state in states]

    @rule(choice=st.randoms(use_true_random=False))
    def a_job_starts(self, choice: Random) -> None:
        if waiting := self.some(JobState.PENDING):
            choice.choice(waiting).state = JobState.RUNNING

    @rule(choice=st.randoms(use_true_random=False), index=st.integers(0, PROCESSES - 1))
    def a_worker_joins(self, choice: Random, index: int) -> None:
        admitted = [job for job in self.some(JobState.RUNNING) if self.state.admits(job.name)]
        if admitted:
            job = choice.choice(admitted)
            job.workers.add(f"{job.name}-{index}")
            self.tell(Source.ENGINE, events.WorkerJoined(f"{job.name}-{index}", job.name))

    def end(self, job: RealJob, state: JobState) -> None:
        job.state = state
        for worker in sorted(job.workers):
            self.tell(Source.ENGINE, events.WorkerLeft(worker, job.name))
        job.workers.clear()

    @rule(
        choice=st.randoms(use_true_random=False),
        how=st.sampled_from([JobState.FAILED, JobState.TIMEOUT, JobState.PREEMPTED, JobState.COMPLETED]),
    )
    def a_job_ends(self, choice: Random, how: JobState) -> None:
        if running := self.some(JobState.RUNNING):
            self.end(choice.choice(running), how)

    @rule(choice=st.randoms(use_true_random=False))
    def a_preempted_job_returns(self, choice: Random) -> None:
        if preempted := [job for job in self.some(JobState.PREEMPTED) if not job.cancelled]:
            choice.choice(preempted).state = JobState.PENDING

    # --------------------------------------------------------------------------------------------- it answers, mostly

    def truth(self, job: JobId) -> JobStatus:
        real = self.world[job]
        # Ended jobs are no longer listed after a while; here: those that completed.
        return status(job, JobState.ABSENT if real.state is JobState.COMPLETED else real.state)

    @rule()
    def poll(self) -> None:
        watch = self.state.watch(self.now)
        self.now += 1.0
        statuses = {job: self.truth(job) for job in watch.ids}
        self.tell(Source.BACKEND, events.Polled(statuses, self.now - 0.5))
        if watch.names:
            listed = {job.name: job.id for job in self.world.values() if not job.state.is_over}
            found = {name: listed[name] for name in watch.names if name in listed}
            self.tell(Source.BACKEND, events.Found(watch.names, found))

    @precondition(lambda self: self.cancels)
    @rule(outcome=st.sampled_from(["gone", "slow", "lost"]))
    def cancel_ends(self, outcome: str) -> None:
        ids = self.cancels.pop(0)
        for job in ids:
            real = self.world[job]
            real.cancelled = real.cancelled or outcome != "lost"
            if outcome == "gone" and not real.state.is_over:
                self.end(real, JobState.CANCELLED)
        gone = frozenset(job for job in ids if self.world[job].state.is_over)
        if outcome == "lost":
            gone = frozenset()
        self.tell(Source.BACKEND, events.CancelReported(gone, frozenset(ids) - gone))

    @rule()
    def slow_cancels_take_effect(self) -> None:
        for job in self.world.values():
            if job.cancelled and not job.state.is_over:
                self.end(job, JobState.CANCELLED)

    @precondition(lambda self: self.retirements)
    @rule(works=st.booleans())
    def retirement_ends(self, works: bool) -> None:
        names = frozenset(self.retirements.pop(0))
        if not works:
            self.tell(Source.ENGINE, events.RetireFailed(names, "no room"))
            return
        for job in self.world.values():
            if job.name in names:
                for worker in sorted(job.workers):
                    self.tell(Source.ENGINE, events.WorkerLeft(worker, job.name))
                job.workers.clear()
        self.tell(Source.ENGINE, events.Retired(names))

    @invariant()
    def never_more_admitted_jobs_than_wanted(self) -> None:
        if self.state.limits is None:
            held = [record for record in self.state.jobs.values() if record.held_until > self.now]
            admitted = [r for r in self.state.jobs.values() if r.phase is Phase.RUNNING and self.state.admits(r.name)]
            assert len(admitted) <= self.state.goal + len(held)

    def teardown(self) -> None:
        """Close; from now on everything works. No job may be left, and the report must be true."""
        self.close(within=1000.0)
        for _ in range(6):
            while self.in_flight:
                self.controller_thaws()
            while self.submissions:
                self.submission_ends("accepted")
            while self.cancels:
                self.cancel_ends("gone")
            self.poll()
            self.now += 60
            self.tell(Source.CLOCK, events.Tick())
        assert len(self.finished) == 1
        assert not self.finished[0].unconfirmed
        for job in self.world.values():
            assert job.state.is_over, f"{job} was left behind"


QUICK = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TestChaos = Chaos.TestCase
TestChaos.settings = QUICK
TestHonestWorld = HonestWorld.TestCase
TestHonestWorld.settings = QUICK
