"""The agent's own link: the twin of `$edgeAgent` over a cloud in memory, in virtual time."""

from __future__ import annotations

import pytest

from actors.agent.cloud_report import REPORT_SPACING_S
from actors.agent.link import TRIED_AGAIN
from actors.agent.link_messages import LINK, AgentMethodAnswered, CallAgentMethod, QualityLost, SendQuality
from actors.agent.root import StopEdge
from actors.upstream.connection import CloudFault, Fault
from messaging.twin import Section
from tests.actors.agent_world import EDGE_AGENT_ID, CloudEdge, process
from tests.actors.hub_world import message_in


def linked() -> CloudEdge:
    edge = CloudEdge()
    edge.deploy({"sensor": process()})
    edge.start()
    edge.system.advance(5.0)
    return edge


def times_opened(edge: CloudEdge) -> int:
    """Return how often the agent has tried to connect."""
    return edge.cloud.opened.count(EDGE_AGENT_ID)


def test_a_patch_that_follows_on_is_merged_and_after_a_gap_the_whole_twin_is_read() -> None:
    """Source: agent.md section 8, row 97."""
    edge = linked()
    before = edge.cloud.desired[EDGE_AGENT_ID]

    edge.cloud.patch_desired(EDGE_AGENT_ID, {"modules": {"second": process()}})
    edge.system.run()
    assert edge.statuses()["second"] == "running"

    # A patch is lost on its way.
    section = edge.cloud.desired[EDGE_AGENT_ID]
    values = section.values | {"modules": {"third": process()}}
    edge.cloud.desired[EDGE_AGENT_ID] = Section(values, {}, section.version + 1)
    edge.cloud.patch_desired(EDGE_AGENT_ID, {"modules": {"fourth": process()}})
    edge.system.run()

    assert edge.keeper.version == before.version + 3
    assert [*edge.modules()] == ["edgeAgent", "edgeHub", "fourth", "third"]


def test_a_twin_of_a_lower_version_counts_when_it_is_read_as_a_whole() -> None:
    edge = linked()
    section = edge.cloud.desired[EDGE_AGENT_ID]
    values = section.values | {"modules": {"other": process()}}
    edge.cloud.desired[EDGE_AGENT_ID] = Section(values, {}, 1)

    edge.cloud.cut(EDGE_AGENT_ID)
    edge.system.advance(1.0)

    assert edge.keeper.version == 1
    assert [*edge.modules()] == ["edgeAgent", "edgeHub", "other"]


def test_a_link_that_is_lost_is_back_as_soon_as_the_cloud_can_be_reached() -> None:
    """Source: agent.md section 8, row 100."""
    edge = linked()
    edge.cloud.go_away()
    edge.system.advance(3600.0)
    assert edge.cloud.probing == ["hub.example"]
    section = edge.cloud.desired[EDGE_AGENT_ID]
    values = section.values | {"modules": {"other": process()}}
    edge.cloud.desired[EDGE_AGENT_ID] = Section(values, {}, section.version + 1)

    edge.cloud.come_back()
    edge.system.run()

    assert edge.statuses()["other"] == "running"


@pytest.mark.parametrize(
    "kind", [Fault.UNAUTHORIZED, Fault.UNTRUSTED, Fault.CLOCK, Fault.THROTTLED, Fault.UNREACHABLE]
)
def test_a_refusal_is_tried_again_later_without_haste_and_without_an_end(
    kind: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "actors.agent.link")
    edge = linked()
    opened = times_opened(edge)
    edge.cloud.refuse(EDGE_AGENT_ID, CloudFault(kind, "it says no; do this"))
    edge.system.advance(3600.0)
    tries = times_opened(edge) - opened
    del edge.cloud.refusals[EDGE_AGENT_ID]
    edge.system.advance(60.0)

    assert 50 <= tries <= 250
    assert EDGE_AGENT_ID in edge.cloud.connections
    told = [line.getMessage() for line in caplog.records if "the agent's link" in line.getMessage()]
    told = [line.removesuffix(TRIED_AGAIN) for line in told]
    assert told == [
        "the agent's link to hub.example is up",
        "the agent's link to hub.example is down: it says no; do this",
        "the agent's link to hub.example is up again",
    ]


def test_a_twin_that_cannot_be_read_is_asked_for_again_and_then_on_another_connection() -> None:
    """Source: agent.md section 8, rows 42, 98 and 99."""
    edge = CloudEdge()
    edge.deploy({"sensor": process()})
    edge.cloud.failures[EDGE_AGENT_ID].extend([CloudFault(Fault.TIMEOUT, "no answer")] * 4)

    edge.start()
    edge.system.advance(30.0)

    assert times_opened(edge) == 2
    assert edge.statuses()["sensor"] == "running"


def test_the_twin_is_read_every_hour() -> None:
    """Source: agent.md section 8, row 102."""
    edge = linked()
    section = edge.cloud.desired[EDGE_AGENT_ID]
    values = section.values | {"modules": {"other": process()}}
    edge.cloud.desired[EDGE_AGENT_ID] = Section(values, {}, section.version + 1)

    edge.system.advance(3600.0)

    assert edge.statuses()["other"] == "running"


def test_a_patch_that_overtakes_an_older_copy_of_the_twin_is_not_undone_by_it() -> None:
    edge = linked()
    edge.cloud.hold()
    edge.system.advance(3600.0)
    older = edge.cloud.desired[EDGE_AGENT_ID]
    edge.cloud.patch_desired(EDGE_AGENT_ID, {"modules": {"second": process()}})
    edge.system.run()
    newer, edge.cloud.desired[EDGE_AGENT_ID] = edge.cloud.desired[EDGE_AGENT_ID], older

    edge.cloud.release(1)
    edge.system.run()
    edge.cloud.desired[EDGE_AGENT_ID] = newer
    edge.cloud.release()
    edge.system.advance(5.0)

    assert edge.keeper.version == newer.version
    assert edge.statuses()["second"] == "running"


# reported properties


def test_only_what_the_cloud_has_not_is_sent() -> None:
    """Source: agent.md section 8, rows 82 and 83."""
    edge = linked()
    version = edge.cloud.reported[EDGE_AGENT_ID].version

    edge.system.advance(60.0)
    assert edge.cloud.reported[EDGE_AGENT_ID].version == version

    edge.runtime.end("sensor", 3)
    edge.system.advance(60.0)
    assert edge.reported["modules"]["sensor"]["restartCount"] == 1
    assert edge.reported["modules"]["sensor"]["exitCode"] == 3
    assert edge.cloud.reported[EDGE_AGENT_ID].version == version + 1


def test_what_others_wrote_into_the_reported_properties_is_gone_after_the_next_connection() -> None:
    """Source: agent.md section 8, row 87."""
    edge = linked()
    before = edge.reported
    section = edge.cloud.reported[EDGE_AGENT_ID]
    values = section.values | {"modules": {"ghost": {"runtimeStatus": "running"}}, "extra": 1}
    edge.cloud.reported[EDGE_AGENT_ID] = Section(values, {}, section.version + 1)

    edge.cloud.cut(EDGE_AGENT_ID)
    edge.system.advance(5.0)

    assert edge.reported == before


def test_many_changes_make_few_reports_and_the_last_one_is_exact() -> None:
    edge = linked()
    version = edge.cloud.reported[EDGE_AGENT_ID].version

    for _ in range(20):
        edge.runtime.end("sensor", 1)
        edge.system.advance(10.5)

    assert edge.cloud.reported[EDGE_AGENT_ID].version - version <= 20
    assert edge.reported["modules"]["sensor"]["restartCount"] == edge.modules()["sensor"]["restarts"]


def test_reports_are_kept_apart() -> None:
    edge = linked()
    version = edge.cloud.reported[EDGE_AGENT_ID].version

    for number in range(10):
        edge.deploy({f"m{number}": process()})
        edge.system.advance(REPORT_SPACING_S / 10)

    assert edge.cloud.reported[EDGE_AGENT_ID].version - version <= 2
    edge.system.advance(REPORT_SPACING_S * 2)
    assert [*edge.reported["modules"]] == ["m9"]


def test_what_changes_while_there_is_no_link_is_reported_when_it_is_back() -> None:
    edge = linked()
    edge.cloud.go_away()
    edge.runtime.end("sensor", 7)
    edge.system.advance(60.0)
    assert edge.reported["modules"]["sensor"]["exitCode"] == 0

    edge.cloud.come_back()
    edge.system.advance(5.0)

    assert edge.reported["modules"]["sensor"]["exitCode"] == 7


@pytest.mark.parametrize("kind", [Fault.TIMEOUT, Fault.THROTTLED])
def test_a_report_of_which_it_is_not_known_whether_it_arrived_is_made_up_for(kind: Fault) -> None:
    """Source: agent.md section 8, row 85."""
    edge = linked()
    edge.cloud.failures[EDGE_AGENT_ID].append(CloudFault(kind, "later"))

    edge.runtime.end("sensor", 7)
    edge.system.advance(30.0)

    assert edge.reported["modules"]["sensor"]["exitCode"] == 7


def test_a_report_that_is_refused_is_not_repeated_until_there_is_another() -> None:
    edge = linked()
    refusals = [CloudFault(Fault.REFUSED, "a key is not allowed", 400)] * 2
    edge.cloud.failures[EDGE_AGENT_ID].extend(refusals)

    edge.runtime.end("sensor", 7)
    edge.system.advance(60.0)
    assert len(edge.cloud.failures[EDGE_AGENT_ID]) == 1

    edge.cloud.failures[EDGE_AGENT_ID].clear()
    edge.runtime.end("sensor", 8)
    edge.system.advance(60.0)
    assert edge.reported["modules"]["sensor"]["exitCode"] == 8


def test_an_edge_that_ends_says_so() -> None:
    """Source: agent.md section 8, rows 49 and 89."""
    edge = linked()

    edge.tell("agent", StopEdge())
    edge.system.advance(5.0)

    assert edge.system.cells == {}
    assert edge.reported["lastDesiredStatus"]["code"] == 406
    statuses = {name: module["runtimeStatus"] for name, module in edge.reported["systemModules"].items()}
    assert statuses == {"edgeAgent": "unknown", "edgeHub": "unknown"}
    assert edge.reported["modules"]["sensor"]["runtimeStatus"] == "unknown"
    assert edge.reported["modules"]["sensor"]["type"] == "process"


def test_an_edge_that_ends_offline_does_not_wait_for_the_cloud() -> None:
    edge = linked()
    edge.cloud.go_away()

    edge.tell("agent", StopEdge())

    assert edge.system.cells == {}


# methods


def test_methods_go_to_who_answers_them_and_back_to_the_caller() -> None:
    edge = linked()
    request_id = edge.cloud.call_method(EDGE_AGENT_ID, "ping", b'{"a": 1}')
    edge.system.run()
    [asked] = edge.methods()
    call = message_in(asked)
    assert isinstance(call, CallAgentMethod)
    assert (call.name, call.payload.reveal()) == ("ping", b'{"a": 1}')

    edge.tell(LINK, AgentMethodAnswered(request_id, 200, b"null"), sender="agent/methods")

    assert edge.cloud.answers[request_id] == (200, b"null")


def test_an_answer_that_comes_after_the_link_was_lost_harms_nobody() -> None:
    edge = linked()
    request_id = edge.cloud.call_method(EDGE_AGENT_ID, "ping")
    edge.cloud.go_away()

    edge.tell(LINK, AgentMethodAnswered(request_id, 200, b"null"), sender="agent/methods")

    assert edge.cloud.answers == {}
    assert LINK in edge.system.cells


def test_a_link_that_fails_is_made_anew_and_goes_on_where_it_was() -> None:
    """Source: agent.md section 8, row 103."""
    edge = linked()

    edge.system.cells[LINK]._fail(None, ValueError("a bug"))
    edge.system.advance(5.0)
    edge.deploy({"other": process()})
    edge.system.advance(5.0)

    assert edge.statuses()["other"] == "running"
    assert [*edge.reported["modules"]] == ["other"]


def test_twins_and_patches_that_come_are_counted_and_those_that_do_not() -> None:
    """Source: observability.md section 3."""
    edge = linked()
    syncs, failed = "edgeAgent_iothub_syncs_total", "edgeAgent_unsuccessful_iothub_syncs_total"
    before = edge.counted(syncs), edge.counted(failed)

    edge.cloud.patch_desired(EDGE_AGENT_ID, {"modules": {"second": process()}})
    edge.system.run()
    after_patch = edge.counted(syncs)
    edge.system.advance(30.0)  # what changed is reported by then
    edge.cloud.failures[EDGE_AGENT_ID].append(CloudFault(Fault.TIMEOUT, "no answer"))
    edge.system.advance(3600.0)

    assert before == (1, 0)
    assert after_patch == 2
    assert edge.counted(syncs) == 4  # the one that failed, and the next
    assert edge.counted(failed) == 1


def test_the_time_of_a_deployment_is_counted_when_it_was_rolled_out() -> None:
    edge = linked()
    times = "edgeAgent_deployment_time_seconds"
    before = edge.counted(times)

    edge.cloud.patch_desired(EDGE_AGENT_ID, {"modules": {"second": process()}})
    edge.system.run()

    assert edge.counted(times) == before + 1


def sent_quality(edge: CloudEdge, body: bytes = b"numbers") -> list[str]:
    """Have the link send quality telemetry; return the kinds of what it answers."""
    asker = edge.system.mailbox("agent/metrics")
    edge.system.bus.send(LINK, SendQuality(body), sender="agent/metrics", correlation_id=5)
    edge.system.run()
    return [letter.kind for letter in asker()]


def test_quality_telemetry_goes_as_the_agent_with_a_content_type_and_nothing_else() -> None:
    """Source: observability.md section 4."""
    edge = linked()

    answered = sent_quality(edge)

    assert answered == ["QualitySent"]
    [(sender, message)] = edge.cloud.messages
    assert sender == EDGE_AGENT_ID
    assert message.properties == {}
    assert message.system_properties == {"contentType": "application/x-azureiot-edgeruntimediagnostics"}
    assert message.body == b"numbers"


@pytest.mark.parametrize(
    ("kind", "may_pass"), [(Fault.TIMEOUT, True), (Fault.THROTTLED, True), (Fault.REFUSED, False)]
)
def test_quality_telemetry_that_is_not_taken_says_whether_to_try_again(kind: Fault, may_pass: bool) -> None:
    edge = linked()
    edge.cloud.failures[EDGE_AGENT_ID].append(CloudFault(kind, "not now"))
    asker = edge.system.mailbox("agent/metrics")

    edge.system.bus.send(LINK, SendQuality(b"x"), sender="agent/metrics", correlation_id=5)
    edge.system.run()

    [letter] = asker()
    assert message_in(letter) == QualityLost("not now", may_pass)


def test_without_a_link_quality_telemetry_is_to_be_tried_again() -> None:
    edge = linked()
    edge.cloud.go_away()
    edge.system.run()

    assert sent_quality(edge) == ["QualityLost"]
    assert edge.cloud.messages == []
