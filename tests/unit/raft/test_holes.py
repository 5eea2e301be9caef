"""Each hole of PySyncObj (RAFT.md) and each rule of consensus (PROTOCOL.md) has tests by name, and they are there.

`CLOSED` says which tests fail when the guard of a hole or rule is gone; `REOPENED` names those that take the guard
away and show that the bad thing then happens, so that the first cannot pass for another reason.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1]
WANTED = (
    *(f"S{number}" for number in range(1, 23)),
    *(f"L{number}" for number in range(1, 13)),
    *(f"P{number}" for number in (*range(1, 12), 18)),
)

CLOSED: dict[str, tuple[str, ...]] = {
    "S1": (
        "raft/test_replication::test_a_divergent_tail_is_not_applied_when_a_leader_with_a_higher_commit_is_heard",
        "raft/test_replication::test_a_snapshot_offer_moves_no_commit_index",
    ),
    "S2": (
        "raft/test_replication::test_a_late_frame_shortens_no_acknowledged_log",
        "raft/test_guards::test_no_frame_shortens_what_matches_and_all_up_to_the_verified_index_is_the_leaders",
    ),
    "S3": (
        "raft/test_replication::test_an_answer_to_entries_leaves_after_the_sync_that_covers_them",
        "raft/test_voting::test_a_vote_leaves_after_it_is_on_disk",
        "raft/test_voting::test_a_vote_request_leaves_after_the_own_vote_is_on_disk",
        "raft/test_driver::test_a_single_node_commits_after_its_own_sync",
    ),
    "S4": (
        "raft/test_journal::test_cutting_the_front_removes_only_whole_segments_behind_the_cut",
        "raft/test_journal_crash::test_a_power_loss_at_any_operation_keeps_all_that_was_synced_and_nothing_that_never_was",
    ),
    "S5": (
        "raft/test_replica::test_a_store_within_the_journal_keeps_all_of_the_journal",
        "raft/test_replica::test_a_store_beyond_the_journal_restarts_it_there_and_keeps_term_and_vote",
    ),
    "S6": (
        "raft/test_installing::test_the_journal_is_cut_only_behind_what_a_finished_flush_covers",
        "raft/test_installing::test_what_was_applied_and_not_flushed_is_applied_again_after_a_power_loss",
    ),
    "S7": (
        "raft/test_replica::test_a_store_that_is_not_readable_refuses_to_start",
        "raft/test_snapshots::test_a_chunk_that_does_not_fit_the_digest_ends_the_pull_and_the_next_starts_anew",
        "raft/test_installing::test_a_damaged_chunk_ends_the_pull_and_nothing_of_it_is_installed",
    ),
    "S8": ("raft/test_replica::test_a_restarted_node_that_is_alone_applies_nothing_that_no_leader_called_committed",),
    "S9": (
        "raft/test_voting::test_a_node_votes_once_a_term_also_over_a_power_loss",
        "raft/test_journal_damage::test_a_flip_of_any_byte_is_refused_or_harmless_and_only_in_the_last_group_shortens",
    ),
    "S10": (
        "raft/test_journal_damage::test_a_flip_of_any_bit_of_sampled_bytes_is_refused_or_harmless",
        "raft/test_journal_crash::test_a_failed_operation_reaches_the_caller_and_loses_nothing_that_was_synced",
        "raft/test_journal::test_indexes_and_terms_beyond_32_bits_are_kept",
        "raft/test_driver::test_a_failed_sync_stops_the_process_and_nothing_that_it_covered_is_promised",
    ),
    "S11": ("raft/test_replication::test_an_answer_of_another_term_commits_nothing",),
    "S12": (
        "raft/test_voting::test_a_voter_counts_once",
        "raft/test_guards::test_each_voter_counts_once_a_term_also_when_votes_of_older_terms_come_between",
    ),
    "S13": (
        "raft/test_transport_strangers::test_a_wrong_secret_is_refused_by_both_sides_and_the_log_says_why",
        "raft/test_transport_strangers::test_strangers_other_versions_and_wrong_addresses_are_refused_by_name",
        "raft/test_handshake::test_a_recorded_conversation_does_not_serve_again",
    ),
    "S14": ("raft/test_driver::test_an_entry_that_is_not_readable_stops_the_process_before_anything_behind_it",),
    "S15": (
        "raft/test_driver::test_an_exception_in_a_callback_applies_nothing_twice_and_stops_the_process",
        "raft/test_driver::test_an_entry_that_is_applied_already_is_skipped",
    ),
    "S16": (
        "raft/test_library_contract::test_there_are_no_replicated_methods_whose_numbers_or_versions_could_differ",
        "machine/test_golden::test_command_has_its_golden_bytes",
    ),
    "S17": (
        "broker/test_outbox::test_commands_lost_with_a_connection_are_sent_again_in_order_and_applied_once",
        "broker/test_outbox::test_a_sequenced_operation_whose_deadline_passes_has_an_unknown_outcome",
        "broker/test_epochs::test_a_restart_takes_a_new_epoch_and_what_the_old_one_sent_is_dropped",
    ),
    "S18": ("raft/test_driver::test_a_leader_that_nobody_answers_steps_down_within_about_a_second",),
    "S19": ("raft/test_library_contract::test_the_library_is_told_not_to_do_what_the_shell_does",),
    "S20": (
        "raft/test_voting::test_a_wiped_node_grants_no_vote_and_asks_for_none",
        "raft/test_voting::test_the_vote_of_a_disk_that_is_not_on_record_does_not_count",
        "raft/test_replication::test_a_learners_answers_move_what_is_sent_to_it_and_commit_nothing",
    ),
    "S21": ("raft/test_library_contract::test_there_are_no_replicated_methods_whose_numbers_or_versions_could_differ",),
    "S22": (
        "raft/test_installing::test_a_late_snapshot_of_an_old_leader_takes_nothing_back",
        "raft/test_installing::test_the_journals_tail_is_kept_when_it_holds_the_snapshots_last_entry",
        "raft/test_installing::test_another_offer_while_the_switch_is_written_changes_nothing_about_it",
    ),
    "L1": (
        "raft/test_replication::test_an_answer_sends_nothing_twice_that_is_in_flight",
        "raft/test_replication::test_a_rewind_is_done_once_however_many_frames_in_flight_ask_for_it",
    ),
    "L2": (
        "raft/test_voting::test_a_node_that_hears_a_live_leader_helps_nobody_to_depose_it",
        "raft/test_voting::test_without_pre_votes_of_a_majority_no_term_is_begun",
        "raft/test_library_contract::test_the_librarys_own_timer_never_campaigns",
    ),
    "L3": ("raft/test_replication::test_a_follower_behind_the_log_is_told_so_once_a_second_and_is_sent_nothing_else",),
    "L4": ("raft/test_replication::test_the_largest_commands_are_sent_whole",),
    "L5": ("raft/test_replication::test_nothing_is_pickled_on_the_way_of_a_command",),
    "L6": ("raft/test_replication::test_entries_leave_in_the_step_that_appends_them",),
    "L7": (
        "raft/test_transport::test_members_connect_although_others_use_up_the_descriptors_and_the_listener_survives_that",
    ),
    "L8": (
        "raft/test_transport_strangers::test_garbage_before_the_handshake_closes_only_its_own_connection",
        "raft/test_transport_strangers::test_an_oversized_frame_closes_the_connection_before_it_is_buffered",
    ),
    "L9": (
        "raft/test_transport::test_a_name_that_resolves_elsewhere_later_is_followed",
        "raft/test_transport::test_a_lookup_that_hangs_is_not_started_twice",
    ),
    "L10": (
        "raft/test_transport::test_a_peer_that_does_not_read_is_disconnected_at_the_limit",
        "raft/test_journal::test_older_commands_are_read_from_disk_and_memory_stays_bounded",
        "raft/test_replication::test_a_leader_takes_no_commands_while_too_many_wait_for_their_commit",
        "raft/test_snapshots::test_writes_during_the_transfer_are_not_in_it_and_one_chunk_is_asked_for_at_a_time",
    ),
    "L11": ("raft/test_transport::test_a_newer_connection_replaces_the_older_whose_late_frames_never_arrive",),
    "L12": (
        "raft/test_driver::test_any_exception_in_a_step_stops_the_process",
        "raft/test_driver::test_an_exception_in_a_frame_that_is_handled_at_once_stops_the_process",
    ),
    "P1": (
        "storage/test_stores::test_what_was_flushed_survives_the_loss_of_leveldbs_log_and_the_rest_is_a_prefix",
        "storage/test_stores::test_flush_syncs_the_table_then_the_directory_and_the_manifest",
        "raft/test_installing::test_the_journal_is_cut_only_behind_what_a_finished_flush_covers",
    ),
    "P2": ("raft/test_replication::test_nothing_is_applied_before_it_is_on_this_nodes_disk",),
    "P3": (
        "raft/test_journal::test_term_and_vote_survive_cutting_the_front",
        "raft/test_journal_damage::test_a_cut_at_any_byte_of_the_last_group_leaves_its_whole_records",
        "raft/test_journal_damage::test_a_cut_before_the_last_group_is_refused_where_a_later_segment_exists",
        "raft/test_driver::test_a_failed_sync_stops_the_process_and_nothing_that_it_covered_is_promised",
    ),
    "P4": (
        "raft/test_membership::test_a_new_disk_goes_on_record_once_it_holds_all_and_counts_once_both_others_hold_the_entry",
        "raft/test_membership::test_a_wiped_node_is_ready_only_after_it_holds_all_and_both_others_confirmed_it",
        "raft/test_driver::test_answers_of_a_disk_that_is_not_on_record_keep_no_leader",
    ),
    "P5": (
        "raft/test_membership::test_a_forming_node_votes_only_after_all_are_heard_lately_and_all_are_forming",
        "raft/test_membership::test_one_formed_peer_makes_a_forming_node_a_learner",
        "raft/test_membership::test_a_power_loss_of_all_while_forming_still_ends_in_one_cluster",
        "raft/test_membership::test_two_wiped_nodes_and_one_with_data_elect_nobody",
        "raft/test_replica::test_other_members_than_those_on_record_refuse_to_start",
        "raft/test_offline::test_a_sole_survivor_keeps_all_it_holds_applied_or_not_and_forms_anew",
    ),
    "P6": (
        "raft/test_voting::test_a_leader_that_hears_of_a_higher_term_takes_it_and_steps_down_once",
        "raft/test_voting::test_a_node_at_a_higher_term_tells_the_leader_and_its_keepalives_too",
    ),
    "P7": (
        "raft/test_driver::test_a_leader_whose_disk_hangs_under_a_live_network_steps_down",
        "raft/test_driver::test_a_node_whose_disk_stalled_does_not_campaign_before_a_sync_was_fast_again",
        "raft/test_driver::test_a_followers_slow_disk_delays_no_answer_to_the_leaders_keepalives",
    ),
    "P8": (
        "raft/test_installing::test_a_late_snapshot_of_an_old_leader_takes_nothing_back",
        "raft/test_installing::test_a_snapshot_that_the_second_node_disagrees_with_is_given_up",
        "raft/test_installing::test_a_running_transfer_keeps_the_journal_from_its_index_on",
        "raft/test_replica::test_a_store_of_another_term_than_the_journals_entry_restarts_the_journal",
    ),
    "P9": (
        "broker/test_epochs::test_the_epoch_is_the_index_of_the_opening_and_sequences_start_at_one",
        "broker/test_outbox::test_a_gap_is_answered_once_and_the_origin_rewinds_once",
        "broker/test_epochs::test_a_repeat_is_dropped_by_the_leader_and_by_every_machine",
    ),
    "P10": ("broker/test_outbox::test_what_a_cut_off_follower_still_holds_takes_no_effect_after_its_time",),
    "P11": (
        "raft/test_logtime::test_the_leaders_reading_never_goes_back",
        "raft/test_logtime::test_after_a_restart_of_all_it_steps_to_the_median_wall_clock_but_never_back",
        "raft/test_driver::test_a_new_leader_does_not_step_back_behind_what_it_heard",
    ),
    "P18": (
        "raft/test_divergence::test_a_leader_takes_no_commands_while_a_difference_is_undecided_and_stops_the_minority",
        "raft/test_divergence::test_a_leader_in_the_minority_steps_down_and_stops",
    ),
}

REOPENED: dict[str, str] = {
    "S1": "raft/test_replication::test_without_the_verified_index_the_divergent_tail_is_applied",
    "S2": "raft/test_replication::test_without_stripping_a_late_frame_takes_acknowledged_entries_away",
    "S3": "raft/test_replication::test_without_promises_an_answer_leaves_before_the_sync",
    "S6": "raft/test_installing::test_without_waiting_for_the_flush_the_journal_lacks_what_the_disk_lacks",
    "S8": "raft/test_replica::test_with_a_stored_commit_index_an_isolated_node_applies_its_tail",
    "S9": "raft/test_voting::test_without_the_stored_vote_a_node_votes_twice_in_a_term",
    "S11": "raft/test_replication::test_without_the_terms_check_a_stale_answer_commits",
    "S12": "raft/test_voting::test_without_the_tally_one_voter_elects_a_leader_of_five",
    "S14": "raft/test_driver::test_without_the_door_an_entry_that_is_not_readable_leaves_the_node_running",
    "S18": "raft/test_driver::test_with_the_librarys_own_fallback_a_leader_stays_stale",
    "S20": "raft/test_voting::test_without_disk_identity_a_wiped_members_vote_elects",
    "S22": "raft/test_installing::test_clearing_the_journal_for_a_snapshot_would_erase_acknowledged_entries",
    "L1": "raft/test_replication::test_without_keeping_the_higher_next_index_each_answer_sends_all_in_flight_again",
    "L2": "raft/test_voting::test_without_stickiness_a_healed_node_deposes_the_leader",
    "L3": "raft/test_replication::test_without_hiding_the_peer_a_follower_behind_the_log_is_told_so_again_and_again",
    "L4": "raft/test_replication::test_with_a_batch_size_below_the_command_the_library_splits_it",
    "L6": "raft/test_replication::test_without_sending_in_the_step_entries_wait_for_a_heartbeat",
    "P2": "raft/test_replication::test_without_the_synced_index_entries_are_applied_before_they_are_on_disk",
    "P4": "raft/test_membership::test_without_disk_identity_the_new_disk_confirms_itself",
    "P6": "raft/test_voting::test_with_fewer_pre_votes_than_a_majority_a_lonely_node_raises_its_term",
    "P7": "raft/test_driver::test_without_the_watch_over_the_disk_a_leader_that_can_commit_nothing_stays",
    "P8": "raft/test_installing::test_without_the_check_a_late_snapshot_takes_back_what_was_applied",
    "P18": "raft/test_divergence::test_without_the_check_replicas_that_differ_go_on",
}


@cache
def names_in(name: str) -> frozenset[str]:
    tree = ast.parse((UNIT / f"{name}.py").read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def test_every_hole_and_every_rule_of_consensus_has_a_test():
    assert sorted(CLOSED) == sorted(WANTED)
    assert set(REOPENED) <= set(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_its_tests_are_there(name: str):
    tests = (*CLOSED[name], *([REOPENED[name]] if name in REOPENED else []))
    for test in tests:
        file, _, function = test.partition("::")
        assert function in names_in(file), test
