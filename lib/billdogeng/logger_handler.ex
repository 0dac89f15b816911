defmodule BilldogEng.LoggerHandler do
  @moduledoc """
  Captures crashes as `$exception` events. It is a handler for OTP's `:logger`. Add it in the app's `start/2`:

      :logger.add_handler(:billdogeng, BilldogEng.LoggerHandler, %{config: %{client: MyApp.Analytics}})

  or with `config :my_app, :logger, [{:handler, …}]` and `:logger.add_handlers(:my_app)`. Remove it with
  `:logger.remove_handler(:billdogeng)`.

  The handler captures crashes of GenServers, Tasks, `:gen_statem` and other behaviours, of processes started by `spawn`
  or `:proc_lib`, and log events with Elixir's `crash_reason`, such as those of web servers. One crash is one event, even if
  it is logged several times. It is captured on the node of the crashed process, wherever its group leader is. A process
  that ends with `:normal`, `:shutdown` or `{:shutdown, _}` is no crash. `exit/1` in a bare process is not logged, and so
  not captured.

  > #### Plain `:proc_lib` processes on Elixir 1.15 and later {: .info}
  >
  > Since 1.15 Elixir's Logger passes SASL reports to no handler. A process of `:proc_lib` without a behaviour, and one that
  > fails in `init/1`, log only such reports. Set `config :logger, handle_sasl_reports: true` to capture them.

  ## Configuration

    * `:client` - the client's name, its pid or its struct. Required
    * `:distinct_id` - the distinct ID of the event: an ID, a function of the log event's metadata that returns one, or
      `{module, function, args}`, which is called with the metadata before `args`. `distinct_id: & &1[:user_id]` returns the
      ID that the process passed to `Logger.metadata(user_id: id)`. Default: `nil`, the ID of the process's
      `BilldogEng.Context`, or of the request whose error page was sent already. Without one, the event has a random UUID and
      `"$process_person_profile": false`, so that it creates no person
    * `:messages` - `:safe` or `:all`, see below. Default: `:safe`
    * `:in_app` - the applications whose frames are the app's own, as for
      `BilldogEng.Analytics.capture_exception/5`

  ## Content

  The event has the type of the exception, its stacktrace with arities, and a message. By default the message quotes no
  value: an exception's own message can contain any term, as in `raise "unexpected \#{inspect(state)}"`. The message is then
  made of modules, functions, arities and atoms, such as `no match of right hand side value`, `key :id not found` or
  `exited in: GenServer.call/3: :timeout`, or it names the place: `in MyApp.Cart.handle_call/3`. With `messages: :all` it is
  the exception's own message, or the `inspect/1` of an exit's reason.

  The handler never reads the state, the last message, the dictionary and the arguments of calls of a process. Of the metadata
  it reads only what `:distinct_id` reads.

  ## Limits

  The handler captures at most 10 events per second. It counts further crashes in `stats/1`, and the next event has their
  number as `$exception_suppressed`. It ignores crashes of this library's processes, log events of the domain
  `[:billdogeng]`, and log events during a capture of its own.
  """

  alias BilldogEng.{Analytics, Context}
  alias BilldogEng.Exceptions
  alias BilldogEng.Exceptions.Crash
  alias BilldogEng.Log.{Failure, Writer}

  @options [:client, :distinct_id, :messages, :in_app]

  # Slots of the counters; those from @window on hold when the latest events went out (ms).
  @captured 1
  @suppressed 2
  @failed 3
  @untold 4
  @window 5
  @rate 10

  @doc group: "State"
  @doc """
  What a handler has captured since it was added: `:captured` crashes handed to the client, `:suppressed` ones
  beyond 10 a second, and `:failed` ones of which it could make no event.

      iex> config = %{client: MyApp.Analytics}
      iex> :logger.add_handler(:doc, BilldogEng.LoggerHandler, %{config: config})
      :ok
      iex> BilldogEng.LoggerHandler.stats(:doc)
      %{captured: 0, suppressed: 0, failed: 0}
      iex> :logger.remove_handler(:doc)
      :ok

  Raises `ArgumentError` where there is no such handler.
  """
  @spec stats(:logger.handler_id()) :: %{
          captured: non_neg_integer(),
          suppressed: non_neg_integer(),
          failed: non_neg_integer()
        }
  def stats(id \\ :billdogeng) do
    case :logger.get_handler_config(id) do
      {:ok, %{module: __MODULE__, config: %{counters: counters}}} ->
        %{
          captured: :atomics.get(counters, @captured),
          suppressed: :atomics.get(counters, @suppressed),
          failed: :atomics.get(counters, @failed)
        }

      _ ->
        raise ArgumentError, "there is no handler #{inspect(id)} of BilldogEng.LoggerHandler"
    end
  end

  # ── of :logger ──

  @doc false
  def adding_handler(handler) do
    with {:ok, config} <- check(Map.get(handler, :config)) do
      {:ok,
       handler
       |> Map.put(:config, Map.put(config, :counters, counters()))
       |> Map.update(:level, :error, &level/1)}
    end
  end

  @doc false
  def changing_config(_set_or_update, %{config: %{counters: counters}}, handler) do
    with {:ok, config} <- check(Map.get(handler, :config)) do
      {:ok, Map.put(handler, :config, Map.put(config, :counters, counters))}
    end
  end

  @doc false
  # In the process that crashed, but for a bare `spawn`. One that raises is removed by :logger.
  def log(event, %{id: id, config: config}) do
    case if(here?(event), do: Crash.read(event)) do
      nil -> :ok
      crash -> crashed(crash, event.meta, id, config)
    end
  catch
    _, _ -> failed(config)
  end

  # A process's events go to its own node's handlers, and to those of its group leader's node.
  defp here?(%{meta: %{pid: pid}}), do: node(pid) == node()
  defp here?(_event), do: true

  # Less than an error is no crash; asked for by :logger before it calls.
  defp level(:all), do: :error
  defp level(level), do: level

  # ── whether ──

  # A mark in the process's dictionary ends with the process. OTP's own marks begin with `$`, too.
  defp crashed({phase, ended_with, stacktrace}, meta, id, config) do
    reported = {:"$billdogeng_reported", id}
    here? = meta.pid == self()

    cond do
      ours?(meta, stacktrace, here?) ->
        :ok

      Process.get(:"$billdogeng_capturing") ->
        :ok

      phase == :ended and here? and Process.get(reported) ->
        :ok

      true ->
        if phase == :terminating and here?, do: Process.put(reported, true)

        if within_rate?(config.counters),
          do: capture(ended_with, with_frames(stacktrace, here?), meta, config),
          else: suppress(config)
    end
  end

  defp ours?(%{domain: [:billdogeng | _]}, _stacktrace, _here?), do: true

  defp ours?(_meta, stacktrace, here?) do
    case here? && Process.get(:"$initial_call") do
      {module, _, _} -> ours?(module)
      _ -> stacktrace |> outermost() |> ours?()
    end
  end

  defp ours?(module) do
    case :application.get_key(:billdogeng, :modules) do
      {:ok, modules} -> module in modules
      :undefined -> module |> Atom.to_string() |> String.starts_with?("Elixir.BilldogEng.")
    end
  end

  defp outermost([{module, _, _, _}]) when is_atom(module), do: module
  defp outermost([_ | rest]), do: outermost(rest)
  defp outermost(_), do: nil

  # A GenServer that stops by itself has no stacktrace: its frame is the initial call.
  defp with_frames([_ | _] = stacktrace, _here?), do: stacktrace

  defp with_frames(none, here?) do
    case here? && Process.get(:"$initial_call") do
      {module, function, arity} -> [{module, function, arity, []}]
      _ -> none
    end
  end

  # At most @rate in any one second, whenever it begins: a slot is free once its event is a second old.
  defp within_rate?(counters) do
    now = System.monotonic_time(:millisecond)

    Enum.any?(@window..(@window + @rate - 1), fn slot ->
      taken = :atomics.get(counters, slot)
      now - taken >= 1_000 and :atomics.compare_exchange(counters, slot, taken, now) == :ok
    end)
  end

  defp suppress(config) do
    :atomics.add(config.counters, @suppressed, 1)
    :atomics.add(config.counters, @untold, 1)
  end

  defp failed(config) do
    :atomics.add(config.counters, @failed, 1)
  catch
    _, _ -> :ok
  end

  # ── the event ──

  # An app's own `:before_send` may log.
  defp capture(ended_with, stacktrace, meta, config) do
    Process.put(:"$billdogeng_capturing", true)
    {distinct_id, more} = distinct_id(config.distinct_id || context_id(meta), meta)
    opts = [handled: false, messages: config.messages, in_app: config.in_app]
    properties = ended_with |> Exceptions.Event.properties(stacktrace, opts) |> Map.merge(more)

    properties =
      case :atomics.exchange(config.counters, @untold, 0) do
        0 -> properties
        untold -> Map.put(properties, "$exception_suppressed", untold)
      end

    Analytics.capture(config.client, distinct_id, "$exception", properties)
    :atomics.add(config.counters, @captured, 1)
  after
    Process.delete(:"$billdogeng_capturing")
  end

  defp distinct_id(option, meta) do
    case asked(option, meta) do
      nil -> {uuid(), %{"$process_person_profile" => false}}
      id -> {id, %{}}
    end
  end

  # Cowboy has a process for each request, and another one logs that it has crashed.
  defp context_id(%{conn: %{owner: owner}}) when is_pid(owner) and owner != self() do
    guarded(fn ->
      with %{distinct_id: id} <- Context.Table.of(owner), do: id
    end)
  end

  # Of the process that crashed: no other's is asked for.
  defp context_id(meta) do
    if meta.pid == self(),
      do: guarded(fn -> Context.distinct_id() || BilldogEng.Context.Request.failed(meta[:request_id]) end)
  end

  # One that fails costs the id, not the event.
  defp asked({module, function, args}, meta), do: own(fn -> apply(module, function, [meta | args]) end)
  defp asked(function, meta) when is_function(function), do: own(fn -> function.(meta) end)
  defp asked(id, _meta), do: id

  defp own(function) do
    function.()
  catch
    kind, reason ->
      failure = Failure.shown(kind, reason, __STACKTRACE__)
      Writer.once(:logger_distinct_id, {:logger_id_failed, failure})
      nil
  end

  defp guarded(function) do
    function.()
  catch
    _, _ -> nil
  end

  # Not by the process's own seed, which belongs to the app.
  defp uuid do
    {random, _seed} = :rand.bytes_s(16, :rand.seed_s(:exsss))
    <<a::48, _::4, b::12, _::2, c::62>> = random
    hex = Base.encode16(<<a::48, 4::4, b::12, 2::2, c::62>>, case: :lower)
    <<a::binary-8, b::binary-4, c::binary-4, d::binary-4, e::binary>> = hex
    Enum.join([a, b, c, d, e], "-")
  end

  # ── configuration ──

  defp check(%{client: client} = config) when client != nil do
    config = Map.drop(config, [:counters])

    case Map.keys(config) -- @options do
      [] ->
        config = Map.merge(%{distinct_id: nil, messages: :safe, in_app: nil}, config)

        cond do
          config.messages not in [:safe, :all] ->
            {:error, "the option :messages takes :safe or :all"}

          not apps?(config.in_app) ->
            {:error, "the option :in_app takes a list of applications, or nil"}

          not id?(config.distinct_id) ->
            {:error,
             "the option :distinct_id takes an id, a function of the metadata, or {module, function, args}"}

          # The struct holds the key, and :logger shows a handler's configuration.
          is_struct(client, BilldogEng) ->
            {:ok, %{config | client: client.analytics}}

          true ->
            {:ok, config}
        end

      unknown ->
        {:error,
         "unknown option(s) #{unknown |> Enum.sort() |> Enum.map_join(", ", &inspect/1)}; there are #{Enum.map_join(@options, ", ", &inspect/1)}"}
    end
  end

  defp check(_config),
    do: {:error, "the option :client is missing: it takes a client's name, its pid or its struct"}

  defp apps?(nil), do: true
  defp apps?(list), do: is_list(list) and List.improper?(list) == false and Enum.all?(list, &is_atom/1)

  defp id?({module, function, args}), do: is_atom(module) and is_atom(function) and is_list(args)
  defp id?(function) when is_function(function), do: is_function(function, 1)
  defp id?(_id), do: true

  defp counters do
    counters = :atomics.new(@window + @rate - 1, [])
    long_ago = System.monotonic_time(:millisecond) - 1_000
    for slot <- @window..(@window + @rate - 1), do: :atomics.put(counters, slot, long_ago)
    counters
  end
end
