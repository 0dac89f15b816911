defmodule BilldogEng.Log.Lines do
  @moduledoc false
  # Words every line that the library logs: from a notice to its level and text. Pure. A line names the thing, the
  # number and the remedy. All of them are listed in guides/log-lines.md, which a test compares with this module.
  #
  # Text from outside goes through `BilldogEng.Log.Text`, values of an event and keys into no notice.

  alias BilldogEng.Log.Text

  @prefix "[BilldogEng:analytics] "

  # Limits of the queue of person updates: see `for_person_updates` in native/billdogeng/src/config.rs.
  @person_updates 1_000

  @counted "are counted in BilldogEng.Telemetry.handlers/0"
  @operations ":set, :set_once, :add and :append with a map or keyword list, :unset with a list of keys"

  @doc false
  # Returns `{level, text}`. `client` is the name of the client that the notice is about: nil if it has none, or if the
  # notice is about no client.
  def line(notice, client \\ nil) do
    case text(notice) do
      # Apps match the original's lines, which have no name.
      {:debug, text} -> {:debug, @prefix <> text}
      {level, text} -> {level, @prefix <> client(client) <> text}
    end
  end

  defp client(nil), do: ""
  defp client(name), do: name(name) <> ": "

  # ── flushes ──

  # The original's, word for word.
  defp text({:flushed, lane, count}), do: {:debug, "flushed #{count} #{noun(lane)}(s)"}

  defp text({:flush_failed, lane, count, message}),
    do: {:debug, "flush failed, re-queued #{count} #{noun(lane)}(s): #{message}"}

  defp text({:queue_full, lane, count}),
    do: {:debug, "max queue size exceeded, dropped #{count} oldest #{noun(lane)}(s)"}

  defp text({:notices_left_out, count}) do
    {:debug, "left out #{counted(count, "log line")}: the client's process read its notices too late"}
  end

  defp text({:flushes_fail, lane, host, which, cause, {count, kept}, remedy}) do
    {:warning,
     "flushes to #{host} #{failing(which)}: #{cause}. Re-queued #{counted(count, noun(lane))}, kept #{kept(kept)}. " <>
       "Remedy: #{remedy}"}
  end

  defp text({:flushes_succeed, lane, host, failed, count}) do
    {:info,
     "flushes to #{host} succeed again after #{counted(failed, "failure")}: delivered #{counted(count, noun(lane))}"}
  end

  defp text({:suspended, lane, minutes}) do
    {:warning,
     "the project's quota is used up: dropping #{noun(lane)}s (quota) for #{minutes} min, then trying one batch; " <>
       "raise the quota, or capture less"}
  end

  defp text({:resumed, lane, dropped}) do
    {:info,
     "the ingest accepts #{noun(lane)}s again: dropped #{counted(dropped, noun(lane))} (quota) in the meantime"}
  end

  defp text({:panicked, lane}) do
    {:error,
     "the flush thread panicked and goes on, its #{noun(lane)}s are still queued: report this, with the log, to the " <>
       "library's maintainers"}
  end

  # ── drops ──

  defp text({:dropped, lane, count, reason, details}) do
    {:warning, "dropped #{counted(count, noun(lane))} (#{reason})" <> because(reason, lane, details)}
  end

  defp text({:too_large, lane, event, path, limit}) do
    {:warning,
     "#{the(lane, event)} is larger than max_event_bytes (#{limit}), which was reached at #{Text.shown(path)}: send " <>
       "less, or raise :max_event_bytes"}
  end

  defp text({:replaced, lane, event, path}) do
    {:warning,
     "#{the(lane, event)} has a value without a JSON form at #{Text.shown(path)}: it was sent in the nearest form; " <>
       "further ones are counted in stats/1 (replaced)"}
  end

  defp text({:ended_with_drops, lane, count, reasons, stats}) do
    {:warning,
     "dropped #{counted(count, noun(lane))} (#{Enum.join(reasons, ", ")}) after the client's process had ended: " <>
       "captured #{stats.captured}, delivered #{stats.delivered}, dropped #{by_reason(stats.dropped)}" <>
       if(:stopped in reasons, do: "; raise :shutdown_timeout, or set :spool_dir", else: "")}
  end

  defp text({:ended_with_spool, count}) do
    {:info,
     "left #{counted(count, "event")} in the spool after the client's process had ended: the next start sends them"}
  end

  # ── the spool ──

  defp text({:spool_unavailable, reason}) do
    {:error,
     ":spool_dir can't be opened, events are kept in memory only: #{Text.shown(reason, 1_000)}; retrying after 1, 2, " <>
       "4 … 60 s"}
  end

  defp text({:spool_dir_invalid, dir, reason}) do
    {:error,
     ":spool_dir is ignored, events are kept in memory only: #{Text.quoted(dir)} can't be expanded to an absolute " <>
       "path: #{Text.shown(reason)}"}
  end

  defp text({:spool_failed, problem}), do: {:error, "spool: #{Text.shown(problem, 1_000)}"}
  defp text({:spool_resumed, text}), do: {:info, "spool: #{Text.shown(text, 1_000)}"}
  defp text({:spool_opened, count}), do: {:info, "spool: open, with #{counted(count, "event")}"}

  defp text({:spool_adopted, count}) do
    {:info,
     "spool: #{counted(count, "event")} captured for another api_key or host #{are(count)} sent with this client's"}
  end

  # ── the app's functions ──

  defp text({:hook_failed, :before_send, failure}) do
    {:warning, ":before_send #{failure(failure)}: dropped its event; further failures are not logged"}
  end

  defp text({:hook_failed, :global_properties, failure}) do
    {:warning,
     ":global_properties #{failure(failure)}: sent its event without them; further failures are not logged"}
  end

  defp text({:context_failed, failure}) do
    {:warning, ":distinct_id or :properties of a context #{failure}: the context has no distinct ID"}
  end

  defp text({:logger_id_failed, failure}) do
    {:warning,
     ":distinct_id of BilldogEng.LoggerHandler #{failure}: captured the crash without a user; further failures are " <>
       "not logged"}
  end

  defp text({:handler_failed, id, event, failure}) do
    {:warning,
     "the handler #{inspect(id)} #{failure} on #{inspect(event)}: it stays attached, and further failures #{@counted}"}
  end

  defp text({:no_distinct_id, id, event, module, cause}) do
    within = if module, do: " in #{inspect(module)}", else: ""

    {:info,
     "the handler #{inspect(id)} captured nothing for #{inspect(event)}#{within}: #{no_id(cause)}; further events " <>
       "without a distinct ID #{@counted}"}
  end

  # ── captures ──

  defp text({:no_client, name, child}) do
    {:warning,
     "dropped a capture for #{name(name)}: no client has this name, it was not started or has ended. Add " <>
       "#{child(name, child)} to the app's supervisor, before processes that capture; further captures are counted " <>
       "in BilldogEng.Analytics.missing/0"}
  end

  defp text({:no_clients, names}) do
    {:warning,
     "dropped captures for more than #{names} names that no client has: further names are counted together in " <>
       "BilldogEng.Analytics.missing/0"}
  end

  defp text({:client_found, name, count}) do
    {:warning, "dropped #{counted(count, "capture")} for #{name(name)} while no client had this name"}
  end

  defp text({:message_too_large, terms}) do
    {:warning,
     "dropped an event or person update of more than #{terms} terms for a client that is reached by messages: send " <>
       "less; further ones are dropped without a line"}
  end

  defp text(:remote_timestamp) do
    {:warning, "left out :timestamp of a capture: a client on another node does not accept it"}
  end

  defp text({:remote_person, node}) do
    {:warning,
     "left out person properties: the client on #{node} does not accept them; update the library there"}
  end

  defp text(:identify_options) do
    {:warning, "left out options of identify/4: expected :set_once and no other"}
  end

  defp text({:timestamp_invalid, kind}) do
    {:warning,
     "invalid value for :timestamp: expected a DateTime, a NaiveDateTime or milliseconds as an integer, got: " <>
       "#{kind}; the event has the time of the call"}
  end

  defp text(:person_invalid) do
    {:warning,
     "left out person properties: expected a map or keyword list of #{@operations}, got: another term"}
  end

  defp text({:person_operation_unknown, name}) do
    {:warning, "left out an unknown operation on person properties: expected #{@operations}, got: #{name}"}
  end

  defp text({:person_operation_invalid, name}) do
    {:warning,
     "left out #{inspect(name)} of person properties, which has another value: expected #{@operations}"}
  end

  defp text(:person_without_id) do
    {:warning, "left out person properties without a distinct ID (nil or \"\")"}
  end

  defp text(:person_thread) do
    {:warning, "left out a person update: the system has no thread for the queue of person updates"}
  end

  # ── the start ──

  defp text(:no_key) do
    {:warning,
     ":api_key is missing or blank: nothing is sent, events are counted (disabled). Set it, or set mode: :disabled to " <>
       "confirm"}
  end

  defp text({:options_unknown, listed}), do: {:warning, "unknown options are ignored: #{listed}"}

  defp text({:option_effect, error, effect}), do: {:warning, "#{error}; it has the effect of #{effect}"}

  defp text({:plain_http, host}) do
    {:warning, "the key and all events are sent to #{host} unencrypted: use https://"}
  end

  defp text({:roots_unreadable, variable, path, others?}) do
    untrusted = if others?, do: "", else: "; until then no https ingest is trusted"

    {:warning,
     "#{variable} (#{Text.quoted(path)}) has no certificate that can be read: correct it, unset it to use the " <>
       "system's authorities, or set :cacertfile#{untrusted}"}
  end

  defp text(:no_roots) do
    {:warning,
     "this system has no certificate authorities, so no https ingest is trusted: apt-get install ca-certificates, or " <>
       "set :cacertfile or SSL_CERT_FILE"}
  end

  # ── parts of lines ──

  defp noun(:event), do: "event"
  defp noun(:person_update), do: "person update"

  defp the(:event, name), do: "the event #{Text.quoted(name)}"
  defp the(:person_update, _name), do: "a person update"

  defp counted(count, noun), do: Text.counted(count, noun)

  defp are(1), do: "is"
  defp are(_count), do: "are"

  defp name(name), do: name |> inspect(limit: 5, printable_limit: 100) |> Text.shown(200)

  defp child(name, :module), do: inspect(name)
  defp child(name, :tuple), do: "{BilldogEng, name: #{name(name)}, api_key: …}"

  defp failing({:first, 1}), do: "fail"
  defp failing({:first, failed}), do: "fail, #{failed} in a row"
  defp failing({:still, failed}), do: "still fail, #{failed} in a row"

  defp kept(:person_updates), do: "in memory up to #{@person_updates} of them"
  defp kept({:max_spool_bytes, bytes}), do: "on disk up to max_spool_bytes (#{bytes})"
  defp kept({limit, value}), do: "in memory up to #{limit} (#{value})"

  defp by_reason(dropped) do
    dropped |> Enum.sort() |> Enum.map_join(", ", fn {reason, count} -> "#{count} (#{reason})" end)
  end

  defp because(:queue_full, :event, details),
    do: ": the queue is at #{full(details)}; raise it#{or_spool(details)}"

  defp because(:queue_full, :person_update, _details),
    do: ": the queue of person updates is full; look at why the ingest does not accept them"

  defp because(:rejected, :event, details) do
    ": the ingest returned HTTP #{details[:status]} to each alone, and accepted others; stats/1 has its message " <>
      "(last_error)"
  end

  defp because(:rejected, :person_update, details),
    do: ": the ingest returned HTTP #{details[:status]}; stats/1 has its message (last_error)"

  defp because(:too_large, _lane, details),
    do:
      ": larger than max_event_bytes (#{details.max_event_bytes}), or than the ingest accepts (413); send less"

  defp because(:spool_full, _lane, %{max_spool_bytes: bytes}),
    do:
      ": the spool is at max_spool_bytes (#{bytes}); raise it, or look at why the ingest does not accept events"

  defp because(:expired, _lane, %{max_spool_age: ms}),
    do:
      ": on disk for longer than max_spool_age (#{ms} ms); raise it, or look at why the ingest does not accept events"

  defp because(:spool_lost, _lane, _details),
    do: ": files of :spool_dir can't be read; check the disk, and that nothing else deletes files there"

  defp because(:before_send, _lane, _details), do: ": :before_send returned nil, or failed"

  defp because(:in_hook, _lane, _details) do
    ": captured by :before_send or :global_properties of the same client, which would be called again; capture " <>
      "elsewhere"
  end

  defp because(:failed, _lane, _details) do
    ": the capture raised; look at the app's implementations of String.Chars, Jason.Encoder and Inspect"
  end

  defp because(_reason, _lane, _details), do: ""

  defp full(%{limit: limit} = details), do: "#{limit} (#{Map.fetch!(details, limit)})"
  defp full(%{max_queue_size: nil, max_queue_bytes: bytes}), do: "max_queue_bytes (#{bytes})"

  defp full(%{max_queue_size: size, max_queue_bytes: bytes}),
    do: "max_queue_size (#{size}) or max_queue_bytes (#{bytes})"

  defp or_spool(%{spool_dir: nil}), do: ", or set :spool_dir to keep events on disk"
  defp or_spool(_details), do: ", and look at why the spool does not take events"

  defp failure(:wrong_event),
    do: "returned neither nil nor a map of an event's four keys with an integer as its time"

  defp failure(:wrong_properties), do: "returned neither a map nor a keyword list"

  defp failure({:unloaded, module}) do
    "is a local function of a version of #{inspect(module)} that was unloaded (use &#{inspect(module)}.function/arity " <>
      "or {#{inspect(module)}, :function, args}, which outlive reloads)"
  end

  defp failure(text), do: text

  defp no_id(:option), do: "its :distinct_id returned none"

  defp no_id(:channel) do
    "the socket has no user. Assign current_scope, current_user or user_id in connect/3, or call " <>
      "BilldogEng.Context.put/1 in join/3"
  end

  defp no_id(:view) do
    "BilldogEng.LiveView did not run. Add it to the on_mount of the view's live_session, after the hook that assigns " <>
      "the user"
  end

  defp no_id(:failed_request) do
    "BilldogEng.Plug did not run. The request failed before it, or the pipeline of the route lacks it"
  end

  defp no_id(:request) do
    "BilldogEng.Plug did not run. Add it to the pipeline of the route, after the plug that assigns the user"
  end

  defp no_id(:process) do
    "the process has no context. Use BilldogEng.Plug, BilldogEng.LiveView or BilldogEng.Context.put/1, or give the " <>
      "handler a :distinct_id"
  end

  defp no_id(:anonymous) do
    "the visitor is anonymous: no current_scope.user or current_user was assigned before BilldogEng.Plug or " <>
      "BilldogEng.LiveView. BilldogEng.Visitor, or their :distinct_id, gives an ID to visitors without an account"
  end
end
