"""What always holds between two events, numbered. Tests check it after each event, ``--validate`` at run time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hpccluster.state.fleet.records import Phase
from hpccluster.state.fleet.state import FleetState

WITH_ID = frozenset({Phase.PENDING, Phase.RUNNING, Phase.RETIRING, Phase.CANCELLING})


def one_record_a_name(state: FleetState) -> Iterator[str]:
    """F1. Each job has one record, under its own name; numbers rise, so no name is used twice."""
    numbers = [record.number for record in state.jobs.values()]
    if numbers != sorted(set(numbers)):
        yield f"numbers do not rise: {numbers}"
    for name, record in state.jobs.items():
        if record.name != name:
            yield f"{record.name} is filed as {name}"


def ids_lead_to_their_jobs(state: FleetState) -> Iterator[str]:
    """F2. Ids and records point at each other."""
    for job, record in state.book.ids.items():
        if record.id != job or state.jobs.get(record.name) is not record:
            yield f"id {job} leads to {record.name} with id {record.id}"
    for record in state.jobs.values():
        if record.id is not None and state.book.ids.get(record.id) is not record:
            yield f"{record.name} cannot be found by its id {record.id}"


def phases_with_an_id(state: FleetState) -> Iterator[str]:
    """F3. A job that waits, runs, retires or is being cancelled has an id; one that is submitted or in doubt has none."""
    for record in state.jobs.values():
        if record.phase is not Phase.OVER and (record.id is not None) is not (record.phase in WITH_ID):
            yield f"{record.name} is {record.phase} with id {record.id}"


def workers_prove_life(state: FleetState) -> Iterator[str]:
    """F4. A job that we did not cancel is not over while it has workers, and a wanted one with workers does not wait."""
    for record in state.jobs.values():
        if record.workers and record.phase is Phase.OVER and not record.unwanted:
            yield f"{record.name} is over but has workers"
        if record.workers and record.phase is Phase.PENDING:
            yield f"{record.name} is pending but has workers"


def what_is_to_go_is_unwanted(state: FleetState) -> Iterator[str]:
    """F5. Jobs in doubt, retiring or being cancelled admit no workers; only doubtful ones keep a place in spite of it."""
    for record in state.jobs.values():
        if record.phase in (Phase.DOUBTFUL, Phase.RETIRING, Phase.CANCELLING) and not record.unwanted:
            yield f"{record.name} is {record.phase} but wanted"
        if record.keeps_place and (not record.was_doubtful or record.phase is Phase.OVER):
            yield f"{record.name} keeps a place without being in doubt"


def submissions_are_bounded(state: FleetState) -> Iterator[str]:
    """F6. No more submissions at once than allowed."""
    if state.book.submitting() > state.policy.concurrent_submissions:
        yield f"{state.book.submitting()} submissions are under way"


def the_goal_is_pursued(state: FleetState) -> Iterator[str]:
    """F7. There are as many jobs as wanted, or something that we wait for explains the difference."""
    counted = state.book.counted()
    held = sum(1 for record in counted if record.held_until > state.book.now)
    if state.limits is None and len(counted) > state.goal + held:
        yield f"{len(counted)} jobs where {state.goal} are wanted"
    is_full = state.book.submitting() >= state.policy.concurrent_submissions
    if len(counted) < state.goal and not is_full and state.brake.allowance(state.book.now) > 0:
        yield f"only {len(counted)} jobs where {state.goal} are wanted, and nothing holds them back"


def closing_spares_nothing(state: FleetState) -> Iterator[str]:
    """F8. While closing no job is wanted, and nothing else can become wanted again."""
    if state.is_closing and (state.goal or any(not record.unwanted for record in state.jobs.values())):
        yield "a job is wanted while closing"


def ends_have_a_time(state: FleetState) -> Iterator[str]:
    """F9. Exactly the jobs that are over have an end, and none of them awaits another cancel."""
    for record in state.jobs.values():
        if (record.ended_at is not None) is not (record.phase is Phase.OVER):
            yield f"{record.name} is {record.phase}, ended at {record.ended_at}"
        if record.cancel_again_at is not None and record.phase is not Phase.CANCELLING:
            yield f"{record.name} is {record.phase} but to be cancelled again"


def evidence_is_used(state: FleetState) -> Iterator[str]:
    """F10. Two absences, or two looks in vain, end a job; a verdict waits only for workers to leave."""
    for record in state.jobs.values():
        if record.phase is not Phase.OVER and (record.absences >= 2 or record.misses >= 2):
            yield f"{record.name} was missed {record.absences}/{record.misses} times but is {record.phase}"
        if record.verdict is not None and not record.workers and record.phase in (Phase.PENDING, Phase.RUNNING):
            yield f"{record.name} was judged and has no workers but is {record.phase}"


INVARIANTS: tuple[Callable[[FleetState], Iterator[str]], ...] = (
    one_record_a_name,
    ids_lead_to_their_jobs,
    phases_with_an_id,
    workers_prove_life,
    what_is_to_go_is_unwanted,
    submissions_are_bounded,
    the_goal_is_pursued,
    closing_spares_nothing,
    ends_have_a_time,
    evidence_is_used,
)


def violations(state: FleetState) -> list[str]:
    """Everything that should hold and does not: the invariant's number and what is wrong."""
    return [f"{(check.__doc__ or '').partition('.')[0]}: {text}" for check in INVARIANTS for text in check(state)]
