defmodule BilldogEng.Log.Notices do
  @moduledoc false
  # Decides which log lines the notices of a client's flush threads are worth. Pure: returns what is to be done.
  #
  #     {:write, notice}                 log the line of this notice
  #     {:logged, lane, reason, count}   note in the client that a line has named these drops
  #     {:summarise, key, ms}            call `summarise/2` with the key after so many ms

  alias BilldogEng.Error
  alias BilldogEng.Log.{Diagnosis, Drops, Outage, Text}

  @summary_interval :timer.minutes(1)

  defstruct [
    :route,
    :limits,
    debug: false,
    outages: %{event: %Outage{}, person_update: %Outage{}},
    details: %{event: %{}, person_update: %{}},
    drops: %{}
  ]

  @limits [:max_queue_size, :max_queue_bytes, :max_event_bytes, :spool_dir, :max_spool_bytes, :max_spool_age]

  @doc false
  # Of a client's options; `debug` is its `:enable_logging`.
  def new(transport, native, debug) do
    %__MODULE__{route: Diagnosis.route(transport), limits: Map.take(native, @limits), debug: debug}
  end

  @doc false
  # Takes the notices of one lane in their order, and how many older ones were left out. Returns `{notices, actions}`.
  def handle(state, lane, notices, missed, now) do
    {state, actions} = each(notices, lane, now, state, [])
    left_out = if missed > 0, do: debug(state, {:notices_left_out, missed}), else: []
    {state, actions |> Enum.reverse([left_out]) |> List.flatten()}
  end

  defp each([], _lane, _now, state, actions), do: {state, actions}

  # Both are of one flush, which has failed.
  defp each([{:flushed, count}, {:flush_failed, _, _} = failed | rest], lane, now, state, actions) do
    each([failed | rest], lane, now, state, [debug(state, {:flushed, lane, count}) | actions])
  end

  defp each([notice | rest], lane, now, state, actions) do
    {state, more} = one(notice, lane, now, state)
    each(rest, lane, now, state, [more | actions])
  end

  @doc false
  # Ends a minute of drops.
  def summarise(state, {lane, reason} = key) do
    {drops, count} = Drops.summarise(state.drops, key)
    state = %{state | drops: drops}
    {state, if(count, do: dropped(state, lane, reason, count), else: [])}
  end

  defp one({:flushed, count}, lane, _now, state) do
    {outage, failed} = Outage.delivered(state.outages[lane])
    line = if failed, do: [{:write, {:flushes_succeed, lane, state.route.host, failed, count}}], else: []
    {put_in(state.outages[lane], outage), [debug(state, {:flushed, lane, count}) | line]}
  end

  defp one({:flush_failed, count, error}, lane, now, state) do
    error = Error.from_native(error)
    {outage, line} = Outage.failed(state.outages[lane], now)
    warning = if line, do: [{:write, flushes_fail(line, lane, count, error, state)}], else: []
    failed = {:flush_failed, lane, count, Text.shown(error.message)}
    {put_in(state.outages[lane], outage), [debug(state, failed) | warning]}
  end

  # The lines of the quota have these drops.
  defp one({:dropped, :quota, _count}, _lane, _now, state), do: {state, []}

  # The line of the client's end has these, `:ended_with_drops`.
  defp one({:dropped, :stopped, _count}, _lane, _now, state), do: {state, []}

  # The app asked for these, by purge/1 and set_mode/2.
  defp one({:dropped, reason, _count}, _lane, _now, state) when reason in [:purged, :disabled],
    do: {state, []}

  defp one({:dropped, reason, count}, lane, _now, state) do
    original = if reason == :queue_full, do: debug(state, {:queue_full, lane, count}), else: []
    {drops, count} = Drops.add(state.drops, {lane, reason}, count)
    state = %{state | drops: drops}
    {state, [original | if(count, do: dropped(state, lane, reason, count), else: [])]}
  end

  # The next two come before the drops that they are about.
  defp one({:refused_with, status}, lane, _now, state),
    do: {put_in(state.details[lane][:status], status), []}

  defp one({:queue_full_by, limit}, lane, _now, state), do: {put_in(state.details[lane][:limit], limit), []}

  defp one({:suspended, seconds}, lane, _now, state) do
    {update_in(state.outages[lane], &Outage.over/1), [{:write, {:suspended, lane, div(seconds, 60)}}]}
  end

  defp one({:resumed, dropped}, lane, _now, state),
    do: {state, [{:write, {:resumed, lane, dropped}}, {:logged, lane, :quota, dropped}]}

  defp one({:replaced_at, event, path}, lane, _now, state),
    do: {state, [{:write, {:replaced, lane, event, path}}]}

  defp one({:too_large_at, event, path}, lane, _now, state),
    do: {state, [{:write, {:too_large, lane, event, path, state.limits.max_event_bytes}}]}

  defp one({:no_spool, reason}, _lane, _now, state), do: {state, [{:write, {:spool_unavailable, reason}}]}
  defp one({:spool_failed, problem}, _lane, _now, state), do: {state, [{:write, {:spool_failed, problem}}]}
  defp one({:spool_resumed, text}, _lane, _now, state), do: {state, [{:write, {:spool_resumed, text}}]}
  defp one({:spool_opened, count}, _lane, _now, state), do: {state, [{:write, {:spool_opened, count}}]}
  defp one({:spool_of_another, count}, _lane, _now, state), do: {state, [{:write, {:spool_adopted, count}}]}
  defp one(:panicked, lane, _now, state), do: {state, [{:write, {:panicked, lane}}]}

  defp debug(%{debug: true}, notice), do: [{:write, notice}]
  defp debug(_state, _notice), do: []

  defp dropped(state, lane, reason, count) do
    details = Map.merge(state.limits, state.details[lane])
    notice = {:dropped, lane, count, reason, details}
    [{:write, notice}, {:logged, lane, reason, count}, {:summarise, {lane, reason}, @summary_interval}]
  end

  defp flushes_fail(which, lane, count, error, state) do
    {cause, remedy} = Diagnosis.of(error, state.route)
    {:flushes_fail, lane, state.route.host, which, cause, {count, kept(lane, state.limits)}, remedy}
  end

  # Where events of a failed flush are, and the limit there.
  defp kept(:person_update, _limits), do: :person_updates
  defp kept(:event, %{spool_dir: dir, max_spool_bytes: bytes}) when dir != nil, do: {:max_spool_bytes, bytes}
  defp kept(:event, %{max_queue_size: nil, max_queue_bytes: bytes}), do: {:max_queue_bytes, bytes}
  defp kept(:event, %{max_queue_size: size}), do: {:max_queue_size, size}
end
