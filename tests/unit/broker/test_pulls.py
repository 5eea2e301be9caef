"""Consume: fresh views, long polls without herds, attempts, clients that go (PROTOCOL.md P13, P19)."""

from __future__ import annotations

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.broker.polls import ConsumePoll
from falconq_cluster.broker.pulls import Pulls
from falconq_cluster.broker.requests import Batch, ConsumeRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import Pull
from tests.unit.broker.loopback import Loopback, append, commands_of


class Consumer:
    """One consume and its answer."""

    def __init__(
        self,
        pulls: Pulls,
        *,
        batch: int = 1,
        wait_ms: int = 0,
        attempt: str = "",
        partition: int | None = None,
        consumer: str = "c",
        topic: str = "t",
    ) -> None:
        self.answers: list[Batch | FalconQError] = []
        self.poll: ConsumePoll = pulls.consume(
            ConsumeRequest(
                topic=topic,
                consumer=consumer,
                batch=batch,
                partition=partition,
                wait_ms=wait_ms,
                attempt=attempt,
                deadline_ms=pulls._broker.clock.monotonic_ms() + wait_ms + 10_000,
            ),
            self.answers.append,
        )

    @property
    def batch(self) -> Batch:
        (answer,) = self.answers
        assert isinstance(answer, Batch), answer
        return answer

    @property
    def got(self) -> list[str]:
        return [message.message.decode() for message in self.batch.messages]

    @property
    def code(self) -> str:
        (answer,) = self.answers
        assert isinstance(answer, FalconQError)
        return answer.code.code


class Rig:
    """A cluster, and the consumes of each node."""

    def __init__(self, *names: str, leader: str = "n1", limits: BrokerLimits | None = None) -> None:
        self.cluster = Loopback(*names, leader=leader, limits=limits)
        self.pulls = {name: Pulls(node.broker) for name, node in self.cluster.nodes.items()}
        self.cluster.settle()

    def publish(self, *messages: str, node: str = "n1", level: int = 0) -> None:
        self.cluster[node].submit(append(*messages, level=level))
        self.cluster.settle()

    def consume(self, node: str = "n1", **kwargs: object) -> Consumer:
        return Consumer(self.pulls[node], **kwargs)  # type: ignore[arg-type]

    def consumed(self, node: str = "n1", **kwargs: object) -> Consumer:
        consumer = self.consume(node, **kwargs)
        self.cluster.settle()
        return consumer

    def pull_count(self) -> int:
        """Pulls in the log."""
        commands = [c for name in self.cluster.nodes for c in commands_of(self.cluster, name)]
        return sum(isinstance(operation, Pull) for command in commands for operation in command.operations)


def test_consume_takes_the_most_urgent_first_and_neither_skips_nor_repeats():
    rig = Rig("n1", "n2")
    rig.publish('"l0"', '"l1"')
    rig.publish('"h2"', level=1)
    assert rig.consumed("n2", batch=2).got == ['"h2"', '"l0"']
    rig.publish('"h3"', level=1)
    assert rig.consumed("n1", batch=5).got == ['"h3"', '"l1"']
    assert rig.consumed("n2", batch=5).got == []


def test_the_envelope_shows_where_the_consumer_stands():
    rig = Rig("n1")
    rig.publish('"l0"', '"l1"')
    rig.publish('"h2"', '"h3"', level=1)
    batch = rig.consumed(batch=1).batch
    assert (batch.partition, batch.start_offset, batch.next_offset) == (0, 0, 0)
    assert batch.pending == {"low": 2, "high": 1}
    assert batch.cursor == {"low": 0, "high": 3}
    (message,) = batch.messages
    assert (message.priority, message.level, message.offset, message.delivery_count) == ("high", 1, 2, 1)
    batch = rig.consumed(batch=2).batch
    assert (batch.start_offset, batch.next_offset) == (0, 1)
    assert batch.index == rig.cluster["n1"].applied_index


def test_a_consume_right_after_an_acknowledged_publish_elsewhere_finds_the_message():
    rig = Rig("n1", "n2")
    rig.publish('"a"')
    assert rig.consumed("n2").got == ['"a"']
    rig.cluster["n1"].submit(append('"b"'))
    rig.cluster["n1"].step()
    rig.cluster.commit()
    rig.cluster["n1"].apply()  # Acknowledged at n1; n2 has not heard of it.
    assert rig.consumed("n2").got == ['"b"']


def test_a_consume_right_after_the_topic_was_made_elsewhere_finds_it():
    rig = Rig("n1", "n2")
    rig.cluster["n1"].submit(append('"a"'))
    rig.cluster["n1"].step()
    rig.cluster.commit()
    rig.cluster["n1"].apply()
    assert rig.consumed("n2").got == ['"a"']


def test_an_empty_answer_costs_no_entry_once_the_consumer_exists():
    rig = Rig("n1", "n2")
    rig.publish('"a"')
    rig.consumed("n2")
    before = len(rig.cluster.committed)
    for _ in range(5):
        assert rig.consumed("n2").got == []
    assert len(rig.cluster.committed) == before


def test_a_consumer_is_created_by_its_first_consume_though_it_gets_nothing():
    rig = Rig("n1")
    rig.publish('"a"')
    rig.consumed(consumer="other")
    assert rig.consumed(consumer="c", batch=1).got == ['"a"']
    assert rig.consumed(consumer="c").got == []
    assert rig.cluster["n1"].broker.views().consumer_exists("t", "c")


def test_questions_to_the_leader_are_shared_and_one_is_on_its_way_at_a_time():
    rig = Rig("n1", "n2")
    rig.publish('"a"')
    rig.consumed("n2")
    before = rig.cluster["n2"].broker.metrics.fresh_round_count
    consumers = [rig.consume("n2") for _ in range(50)]
    assert len(rig.cluster.links["n2", "n1"]) == 1
    rig.cluster.settle()
    assert [consumer.got for consumer in consumers] == [[]] * 50
    assert rig.cluster["n2"].broker.metrics.fresh_round_count - before == 2


def test_without_an_answer_from_a_leader_an_empty_answer_comes_from_the_local_state():
    rig = Rig("n1", "n2")
    rig.publish('"a"')
    rig.consumed("n2")
    rig.cluster.cut.add(frozenset(("n1", "n2")))
    consumer = rig.consume("n2")
    rig.cluster.advance(900)
    assert not consumer.answers
    rig.cluster.advance(200)
    assert consumer.got == []


def test_a_question_lost_with_its_leader_is_asked_of_the_next_one():
    rig = Rig("n1", "n2", "n3")
    rig.publish('"a"')
    rig.consumed("n2")
    consumer = rig.consume("n2")
    rig.cluster.lose("n2", "n1")
    rig.cluster.elect("n3")
    rig.cluster.settle()
    assert consumer.got == []
    assert rig.cluster.clock.now_ms == 1_000


def test_a_follower_that_becomes_leader_answers_its_own_question():
    rig = Rig("n1", "n2")
    rig.publish('"a"')
    rig.consumed("n2")
    consumer = rig.consume("n2")
    rig.cluster.lose("n2", "n1")
    rig.cluster.elect("n2")
    rig.cluster.settle()
    assert consumer.got == []


def test_a_missing_topic_or_partition_is_said_so_once_the_view_is_fresh():
    rig = Rig("n1", "n2")
    assert rig.consumed("n2").code == "topic_not_found"
    rig.publish('"a"')
    assert rig.consumed("n2", partition=3).code == "unknown_partition"
    assert rig.consumed("n2", partition=3, attempt="a").code == "unknown_partition"
    assert rig.consumed("n2", topic="nowhere", wait_ms=1_000).code == "topic_not_found"


def test_a_long_poll_is_woken_by_a_publish_through_any_node():
    rig = Rig("n1", "n2", "n3")
    rig.publish('"a"')
    rig.consumed("n2")
    consumer = rig.consumed("n2", wait_ms=20_000)
    assert not consumer.answers
    rig.publish('"b"', node="n3")
    assert consumer.got == ['"b"']
    assert rig.pulls["n2"].waiting_count == 0


def test_a_long_poll_that_gets_nothing_answers_empty_when_its_time_is_up():
    rig = Rig("n1")
    rig.publish('"a"')
    rig.consumed()
    consumer = rig.consumed(wait_ms=500)
    rig.cluster.advance(490)
    assert not consumer.answers
    rig.cluster.advance(20)
    assert consumer.got == []
    assert rig.pulls["n1"].waiting_count == 0


def test_a_thousand_polls_of_one_consumer_make_one_pull_for_one_message():
    rig = Rig("n1", "n2")
    rig.publish('"a"')
    rig.consumed("n2")
    consumers = [rig.consume("n2", wait_ms=20_000) for _ in range(1_000)]
    rig.cluster.settle()
    before = rig.pull_count()
    rig.publish('"b"')
    assert rig.pull_count() - before == 1
    assert consumers[0].got == ['"b"']
    assert sum(len(consumer.answers) for consumer in consumers) == 1


def test_as_many_polls_are_woken_at_once_as_there_are_batches():
    rig = Rig("n1", "n2")
    rig.publish('"a"')
    rig.consumed("n2")
    consumers = [rig.consume("n2", wait_ms=20_000, batch=2) for _ in range(10)]
    rig.cluster.settle()
    before = len(rig.cluster.committed)
    rig.publish('"b"', '"c"', '"d"', '"e"', '"f"')
    assert [len(consumer.got) for consumer in consumers if consumer.answers] == [2, 2, 1]
    assert len(rig.cluster.committed) - before == 2  # The publish, and one command with three pulls.


def test_every_subscriber_gets_each_message():
    rig = Rig("n1")
    rig.publish('"a"')
    consumers = [rig.consumed(consumer=f"c{n}", batch=1) for n in range(5)]
    waiting = [rig.consume(consumer=f"c{n}", wait_ms=1_000) for n in range(5)]
    rig.cluster.settle()
    rig.publish('"b"')
    assert [consumer.got for consumer in consumers] == [['"a"']] * 5
    assert [consumer.got for consumer in waiting] == [['"b"']] * 5


def test_a_poll_whose_message_another_node_took_goes_on_waiting_before_those_that_came_later():
    rig = Rig("n1", "n2")
    rig.publish('"a"')
    rig.consumed("n1")
    first = rig.consume("n1", wait_ms=20_000)
    second = rig.consume("n1", wait_ms=20_000)
    rig.cluster.settle()
    other = rig.consumed("n2", wait_ms=20_000)
    rig.publish('"b"')  # Both nodes propose a pull; the one of n2 comes first.
    assert other.got == ['"b"']
    assert not first.answers
    assert rig.pulls["n1"].waiting_count == 2
    rig.publish('"c"')
    assert first.got == ['"c"']
    assert not second.answers


def test_polls_of_one_partition_are_not_woken_for_another():
    rig = Rig("n1")
    rig.publish('"a"')
    rig.consumed(partition=0)
    consumer = rig.consumed(partition=0, wait_ms=1_000)
    rig.publish('"b"')
    assert consumer.got == ['"b"']


def test_the_number_of_waiting_polls_is_bounded():
    rig = Rig("n1", limits=BrokerLimits(polls_max=2))
    rig.publish('"a"')
    rig.consumed()
    consumers = [rig.consumed(wait_ms=1_000) for _ in range(3)]
    assert consumers[2].code == "overloaded"
    assert rig.pulls["n1"].waiting_count == 2


def test_a_repeated_attempt_gets_the_same_batch_on_another_node():
    rig = Rig("n1", "n2")
    rig.publish('"a"', '"b"', '"c"')
    first = rig.consumed("n1", attempt="x", batch=2)
    again = rig.consumed("n2", attempt="x", batch=2)
    assert first.got == again.got == ['"a"', '"b"']
    assert rig.consumed("n2", attempt="y", batch=2).got == ['"c"']


def test_a_client_that_goes_before_its_pull_has_a_sequence_moves_no_cursor():
    rig = Rig("n1", "n2")
    rig.publish('"a"')
    consumer = rig.consume("n2")
    consumer.poll.cancel()
    rig.cluster.settle()
    assert consumer.answers == []
    assert rig.pull_count() == 0
    assert rig.consumed("n2").got == ['"a"']


def test_a_client_that_goes_while_its_pull_is_in_the_log_keeps_nobody_waiting():
    rig = Rig("n1", "n2")
    rig.publish('"a"')
    rig.consumed("n2")
    gone = rig.consume("n2", wait_ms=20_000)
    waiting = rig.consume("n2", wait_ms=20_000)
    rig.cluster.settle()
    rig.cluster["n1"].submit(append('"b"', '"c"'))
    rig.cluster["n1"].step()
    rig.cluster.commit()
    rig.cluster["n2"].apply()
    rig.cluster.clock.run_due()
    gone.poll.cancel()
    rig.cluster.settle()
    assert gone.answers == []
    assert waiting.got == ['"c"']
    rig.publish('"d"')
    assert rig.consumed("n2").got == ['"d"']


def test_a_client_that_goes_while_it_waits_is_forgotten():
    rig = Rig("n1")
    rig.publish('"a"')
    rig.consumed()
    gone = rig.consumed(wait_ms=20_000)
    gone.poll.cancel()
    assert rig.pulls["n1"].waiting_count == 0
    before = rig.pull_count()
    rig.publish('"b"')
    assert rig.pull_count() == before


def test_a_poll_that_waits_while_a_snapshot_is_installed_sees_what_it_brought():
    rig = Rig("n1", "n2")
    rig.publish('"a"')
    rig.consumed("n2")
    consumer = rig.consumed("n2", wait_ms=20_000)
    rig.cluster["n1"].submit(append('"b"'))
    rig.cluster["n1"].step()
    rig.cluster.commit()
    rig.cluster["n2"].jump(len(rig.cluster.committed))
    rig.cluster.settle()
    assert consumer.got == ['"b"']


def test_delivered_bytes_are_read_in_the_turn_of_the_apply():
    rig = Rig("n1")
    rig.publish('"a"', '"b"')
    first = rig.consume()
    rig.cluster["n1"].step()
    second = rig.consume()
    rig.cluster["n1"].step()
    rig.cluster.commit()
    index = len(rig.cluster.committed)
    rig.cluster["n1"].apply(index - 1)
    assert first.got == ['"a"']
    assert first.batch.pending == {"low": 1, "high": 0}
    assert not second.answers
    rig.cluster["n1"].apply(index)
    assert second.got == ['"b"']


def test_a_stopping_node_answers_its_waiting_polls():
    rig = Rig("n1")
    rig.publish('"a"')
    rig.consumed()
    consumer = rig.consumed(wait_ms=20_000)
    rig.pulls["n1"].end_waits()
    assert consumer.got == []
    assert rig.pulls["n1"].waiting_count == 0


def test_a_stop_leaves_no_consume_without_an_answer():
    rig = Rig("n1", "n2")
    rig.publish('"a"')
    rig.consumed("n2")
    asking = rig.consume("n2")
    pulling = rig.consume("n2", attempt="x")
    rig.cluster["n2"].broker.stop()
    assert asking.got == []
    assert pulling.code == "not_ready"
