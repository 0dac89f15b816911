//! All atoms of the library, made once.

rustler::atoms! {
    ok, error, nil, no_client, no_thread, dirty, normalise, hooks, item,

    // Messages.
    billdogeng_updates, billdogeng_open, billdogeng_ended, billdogeng_reports, billdogeng_response,

    event, nif_panicked,

    // Commands.
    flush, settle, shutdown, slept, tick, purge,

    // Options.
    always, never, identified_only, environment,

    // Notices and replies.
    flushed, flush_failed, dropped, refused_with, replaced_at, too_large_at, suspended, resumed, no_spool, spool_failed,
    queue_full_by, max_queue_size, max_queue_bytes, spool_resumed, spool_opened, spool_of_another, panicked, settled,

    // Reasons.
    queue_full, too_large, rejected, quota, before_send, in_hook, failed, stopped, spool_full, expired, spool_lost,
    purged, disabled, unowned,

    // Counters.
    mode, person_updates, captured, delivered, queued, queued_bytes, in_flight, retries, replaced, state,
    next_attempt_in, last_error, last_success, idle, waiting, backing_off, draining,

    // Debugging.
    host, infinity, oldest, since, waits_for, callers, queue_length, events, timer, response, disk, sleep_fn, backoff, spool,

    // Reports.
    started, size, interval, call, retry,

    // Terms.
    __struct__, raw, improper, array, pairs,
}
