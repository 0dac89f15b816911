defmodule BilldogEng.Client.Capture do
  @moduledoc false
  # The way of an event or a person update to the native library:
  #
  #     Native.capture ──▶ :ok           it is queued
  #        ▲    ├────────▶ :hooks        run the client's hooks
  #        │    ├────────▶ :normalise    rewrite terms that only Elixir can write
  #        │    └────────▶ :dirty        leave the scheduler to others
  #        └──────────────── again
  #
  # If anything fails on the way, the client counts the item as dropped.

  alias BilldogEng.Client.{Hooks, Missing, Native, Remote}
  alias BilldogEng.Log.Writer
  alias BilldogEng.Terms.Normaliser
  alias BilldogEng.Test.Store

  @doc false
  # Captures an event for the client of `server`. Returns `:ok`, always. The form is the original's: `:with_groups`, or
  # `:raw`, which takes no groups and none of the client's properties.
  def event(pid, distinct_id, name, properties, groups, timestamp, form)
      when is_pid(pid) and node(pid) == node() do
    case Native.capture(pid, :event, distinct_id, name, properties, groups, timestamp, nil) do
      :ok ->
        :ok

      result ->
        event = {distinct_id, name, properties, groups, timestamp}
        # Without a client, the process is the original's, or gone.
        with :no_client <- finish(result, pid, :event, event, form), do: Remote.enqueue(pid, event, form)
    end
  end

  def event(server, distinct_id, name, properties, groups, timestamp, form) do
    case Remote.find(server) do
      {:local, pid} ->
        event(pid, distinct_id, name, properties, groups, timestamp, form)

      {:remote, remote} ->
        if timestamp, do: Writer.once(:remote_timestamp, :remote_timestamp)
        Remote.enqueue(remote, {distinct_id, name, properties, groups, timestamp}, form)

      nil ->
        Missing.count(server)
    end
  catch
    _, _ -> :ok
  end

  @doc false
  # Captures an item for the client that `pid` owns. Returns `:ok`, `:no_client` or `:no_thread`.
  def item(pid, lane, item, form) do
    pid |> native(lane, item, nil) |> finish(pid, lane, item, form)
  end

  defp native(pid, lane, {distinct_id, name, properties, groups, timestamp}, marker),
    do: Native.capture(pid, lane, distinct_id, name, properties, groups, timestamp, marker)

  defp finish(result, pid, lane, item, form) do
    case if(result == :hooks, do: hooked(pid, lane, item, form), else: continue(result, pid, lane, item, nil)) do
      {:item, item} -> file(pid, lane, item)
      result -> result
    end
  catch
    kind, reason -> drop(pid, lane, kind, reason)
  end

  defp hooked(pid, lane, item, form) do
    case Hooks.run(Hooks.Shared.of(pid), pid, item, form) do
      {:ok, item} -> pid |> native(lane, item, :hooked) |> continue(pid, lane, item, :hooked)
      {:drop, reason} -> Native.drop(pid, lane, reason)
    end
  end

  defp continue(:dirty, pid, lane, {distinct_id, name, properties, groups, timestamp} = item, marker) do
    Native.capture_dirty(pid, lane, distinct_id, name, properties, groups, timestamp, marker)
    |> continue(pid, lane, item, marker)
  end

  defp continue(:normalise, pid, lane, {distinct_id, name, properties, groups, timestamp}, _marker) do
    marker = make_ref()
    terms = [distinct_id, name, properties, groups]
    [distinct_id, name, properties, groups] = Normaliser.run(terms, marker, Native.max_event_bytes(pid))
    item = {distinct_id, name, properties, groups, timestamp}
    pid |> native(lane, item, marker) |> continue(pid, lane, item, marker)
  end

  defp continue(result, _pid, _lane, _item, _marker), do: result

  # The client has counted it as delivered already.
  defp file(pid, lane, item) do
    Store.file(pid, lane, filed(lane, item))
  catch
    _, _ ->
      Native.disown(pid, lane)
      :ok
  end

  defp filed(:event, event), do: event

  defp filed(:person_update, %{"distinct_id" => distinct_id} = update) do
    %{
      "event_name" => "$set_person_properties",
      "event_timestamp" => Native.now_ms(),
      "properties" => Map.delete(update, "distinct_id"),
      "user_id" => distinct_id
    }
  end

  @doc false
  # Runs `fun`, which captures an item. If it fails before that, the client of `server` counts the item as dropped.
  def guard(server, lane, fun) do
    fun.()
  catch
    kind, reason -> drop(server, lane, kind, reason)
  end

  # Must not fail the caller.
  defp drop(server, lane, kind, reason) do
    why = if match?({:throw, {Normaliser, :too_large}}, {kind, reason}), do: :too_large, else: :failed
    with {:local, pid} <- Remote.find(server), do: Native.drop(pid, lane, why)
    :ok
  catch
    _, _ -> :ok
  end

  # ── arguments ──

  @doc false
  # Returns properties as the original's `Map.merge(%{"$set" => properties}, properties)`.
  def identified(properties) when is_map(properties) and not is_struct(properties),
    do: Map.put_new(properties, "$set", properties)

  def identified([]), do: []

  def identified(properties) do
    if Keyword.keyword?(properties),
      do: properties |> Map.new() |> identified(),
      else: %{"$set" => properties}
  end

  @doc false
  def set_once(properties, []), do: properties

  def set_once(properties, opts) do
    case if(Keyword.keyword?(opts), do: Keyword.split(opts, [:set_once])) do
      {[{:set_once, value} | _], []} ->
        properties |> Map.new() |> Map.put("$set_once", value)

      _ ->
        Writer.once(:identify, :identify_options)
        properties
    end
  end

  @doc false
  # Returns the option `:timestamp` in ms, or nil for now: an event is worth more than its time.
  def timestamp([]), do: nil

  def timestamp(opts) do
    case opts[:timestamp] do
      nil -> nil
      %DateTime{} = time -> DateTime.to_unix(time, :millisecond)
      %NaiveDateTime{} = time -> time |> DateTime.from_naive!("Etc/UTC") |> DateTime.to_unix(:millisecond)
      ms when is_integer(ms) and ms >= -0x8000_0000_0000_0000 and ms < 0x8000_0000_0000_0000 -> ms
      other -> no_timestamp(other)
    end
  catch
    _, _ -> no_timestamp(opts)
  end

  defp no_timestamp(other) do
    Writer.once(:timestamp, {:timestamp_invalid, kind_of(other)})
    nil
  end

  # Never the term itself, which may be personal data.
  defp kind_of(%module{}), do: "a #{inspect(module)}"
  defp kind_of(term) when is_binary(term), do: "a string"
  defp kind_of(term) when is_number(term), do: "a number"
  defp kind_of(term) when is_atom(term), do: "an atom"
  defp kind_of(term) when is_list(term), do: "a list"
  defp kind_of(term) when is_map(term), do: "a map"
  defp kind_of(_term), do: "another term"
end
