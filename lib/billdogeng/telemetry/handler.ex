defmodule BilldogEng.Telemetry.Handler do
  @moduledoc false
  # What all handlers have in common, from `:telemetry`'s event to the capture.
  #
  #     event ──▶ source: which event is this, if any ──▶ filter ──▶ whose ──▶ sample ──▶ properties ──▶ capture
  #
  # A source is a module with `read/4`: of the event's name, measurements and metadata and its own options it
  # makes `{name, properties}`, or nil where there is nothing to capture.
  #
  # `:telemetry` copies a handler's config out of a table at each event. So the config is a key, and what it
  # stands for in a `:persistent_term`, which is read without a copy.

  alias BilldogEng.{Analytics, Context}
  alias BilldogEng.Context.{Request, Table}
  alias BilldogEng.Log.{Failure, Writer}
  alias BilldogEng.Telemetry.MissingId
  alias BilldogEng.Terms.ModuleName

  @compile {:no_warn_undefined, :telemetry}

  @enforce_keys [:id, :client, :source, :options, :counts]
  defstruct @enforce_keys ++ [:distinct_id, :properties, :groups, :filter, :sampled]

  @common [:id, :distinct_id, :properties, :groups, :filter, :sample_rate]

  # The places of `:counts`.
  @captured 1
  @without_id 2
  @failed 3

  # What `:erlang.phash2/1` answers is below it.
  @hashes 134_217_728

  # ── attaching ──

  @doc false
  def attach(client, events, {source, options}, opts) do
    unless Code.ensure_loaded?(:telemetry) do
      raise ArgumentError,
            ~s(handlers need :telemetry, and the app has none: add {:telemetry, "~> 1.0"} to its deps)
    end

    check(opts)
    client = unwrap(client)
    id = Keyword.fetch!(opts, :id)
    key = {__MODULE__, System.unique_integer([:positive])}

    # First here, for nothing that was put would be taken away again without a price for all processes.
    with :ok <- :telemetry.attach_many(id, events, &__MODULE__.handle/4, key) do
      :persistent_term.put(key, %__MODULE__{
        id: id,
        client: client,
        source: source,
        options: Map.put(options, :key, key),
        counts: :atomics.new(3, signed: false),
        distinct_id: opts[:distinct_id],
        properties: opts[:properties],
        groups: opts[:groups],
        filter: opts[:filter],
        sampled: sampled(opts[:sample_rate])
      })
    end
  catch
    :exit, {:noproc, _} ->
      raise ArgumentError,
            "handlers need :telemetry, and it isn't started: start the app's applications first"
  end

  @doc false
  def detach(id) do
    case attached(&(&1.id == id)) do
      [%{config: key} | _] ->
        with :ok <- :telemetry.detach(id) do
          :persistent_term.erase(key)
          MissingId.forget(key)
        end

      [] ->
        {:error, :not_found}
    end
  end

  @doc false
  def list do
    for {key, attached} <- Enum.group_by(attached(fn _ -> true end), & &1.config),
        handler = :persistent_term.get(key, nil) do
      %{
        id: handler.id,
        client: handler.client,
        events: for(%{event_name: event} <- attached, do: event),
        captured: :atomics.get(handler.counts, @captured),
        without_id: :atomics.get(handler.counts, @without_id),
        failed: :atomics.get(handler.counts, @failed)
      }
    end
  end

  defp attached(which) do
    if Code.ensure_loaded?(:telemetry),
      do: Enum.filter(:telemetry.list_handlers([]), &(match?(%{config: {__MODULE__, _}}, &1) and which.(&1))),
      else: []
  end

  @doc false
  # A struct holds the API key, which handlers and their IDs must not.
  def unwrap(%{__struct__: BilldogEng, analytics: pid}), do: pid
  def unwrap(client), do: client

  # ── options ──

  defp check(opts) do
    case Keyword.keys(opts) -- @common do
      [] ->
        Enum.each(opts, &check_one/1)

      unknown ->
        raise ArgumentError, "unknown options of a handler: #{listed(unknown)}"
    end
  end

  defp check_one({:filter, value}) do
    must(:filter, value == nil or function?(value), "a function of measurements and metadata")
  end

  defp check_one({option, value}) when option in [:properties, :groups] do
    valid = value == nil or function?(value) or map?(value) or Keyword.keyword?(value)
    must(option, valid, "a map, a keyword list, or a function of measurements and metadata that answers one")
  end

  defp check_one({:distinct_id, value}) do
    valid = value == nil or function?(value) or is_binary(value) or is_integer(value) or is_atom(value)
    must(:distinct_id, valid, "an id, or a function of measurements and metadata that answers one")
  end

  defp check_one({:sample_rate, value}) do
    must(
      :sample_rate,
      value == nil or (is_number(value) and value >= 0 and value <= 1),
      "a number from 0 to 1"
    )
  end

  defp check_one({:id, _any}), do: :ok

  @doc false
  # The names to capture each of a source's kinds of events by; nil for one that isn't wanted.
  def names(given, kinds) do
    given = given || []
    must(:events, map?(given) or Keyword.keyword?(given), "a map or keyword list of names")

    case Enum.map(given, &elem(&1, 0)) -- kinds do
      [] -> Map.new(kinds, fn kind -> {kind, name(given[kind], kind)} end)
      unknown -> raise ArgumentError, "the option :events knows #{listed(kinds)}, and not #{listed(unknown)}"
    end
  end

  defp name(given, kind) when given in [nil, true], do: Atom.to_string(kind)
  defp name(false, _kind), do: nil
  defp name(name, _kind) when is_binary(name) or is_atom(name), do: name

  defp name(_other, kind) do
    raise ArgumentError, "the option :events takes a name for #{inspect(kind)}, or false for none"
  end

  defp listed(kinds), do: Enum.map_join(kinds, ", ", &inspect/1)

  @doc false
  def must(_option, true, _accepted), do: :ok

  def must(option, false, accepted),
    do: raise(ArgumentError, "the option #{inspect(option)} takes #{accepted}")

  defp function?(value), do: is_function(value, 2) or is_function(value, 3)
  defp map?(value), do: is_map(value) and not is_struct(value)

  defp sampled(rate) when rate in [nil, 1, 1.0], do: nil
  defp sampled(rate), do: round(rate * @hashes)

  # ── events ──

  @doc false
  def handle(event, measurements, metadata, key) do
    case :persistent_term.get(key, nil) do
      nil -> :ok
      handler -> run(handler, event, measurements, metadata)
    end
  end

  defp run(handler, event, measurements, metadata) do
    with {name, properties} <- handler.source.read(event, measurements, metadata, handler.options),
         true <- wanted?(handler.filter, event, measurements, metadata),
         context = context(metadata),
         {:ok, id} <- whose(handler, context, event, measurements, metadata),
         true <- handler.sampled == nil or :erlang.phash2(id) < handler.sampled do
      properties = merged(properties, handler.properties, event, measurements, metadata)
      groups = valued(handler.groups, event, measurements, metadata) || %{}
      :atomics.add(handler.counts, @captured, 1)
      Context.within(context, fn -> Analytics.capture(handler.client, id, name, properties, groups) end)
    end

    :ok
  catch
    kind, reason -> failed(handler, event, kind, reason, __STACKTRACE__)
  end

  defp wanted?(nil, _event, _measurements, _metadata), do: true

  defp wanted?(filter, event, measurements, metadata) do
    if call(filter, event, measurements, metadata), do: true, else: false
  end

  defp whose(handler, context, event, measurements, metadata) do
    {id, source} =
      case handler.distinct_id do
        nil -> {if(context, do: context.distinct_id), context}
        given -> {valued(given, event, measurements, metadata), :option}
      end

    if id in [nil, ""] do
      :atomics.add(handler.counts, @without_id, 1)
      MissingId.report(handler, event, metadata, source)
      :error
    else
      {:ok, id}
    end
  end

  # Of a request its own alone: its process may have served another one before.
  defp context(%{conn: %{private: %{billdogeng_context: context}}}), do: context
  defp context(%{conn: %{private: _}}), do: Request.unanswered()

  # A LiveView within another has what that one has.
  defp context(%{socket: %{parent_pid: parent, root_pid: root}}) when is_pid(root) do
    Context.get() || Table.of(parent) || Table.of(root)
  end

  # A channel has the user of its socket, unless join/3 has put a context.
  defp context(%{socket: %{channel: _, assigns: assigns}}) do
    Context.get() || channel_context(Request.channel_user_id(assigns))
  end

  defp context(_metadata), do: Context.get()

  defp channel_context(nil), do: nil
  defp channel_context(id), do: %{distinct_id: id, properties: %{}}

  defp merged(properties, nil, _event, _measurements, _metadata), do: properties

  defp merged(properties, given, event, measurements, metadata) do
    case valued(given, event, measurements, metadata) do
      nil -> properties
      more when map_size(properties) == 0 -> more
      more -> Map.merge(properties, Map.new(more))
    end
  end

  defp valued(function, event, measurements, metadata) when is_function(function) do
    call(function, event, measurements, metadata)
  end

  defp valued(value, _event, _measurements, _metadata), do: value

  @doc false
  def call(function, _event, measurements, metadata) when is_function(function, 2) do
    function.(measurements, metadata)
  end

  def call(function, event, measurements, metadata), do: function.(event, measurements, metadata)

  @doc false
  # Native time units as ms, to the microsecond.
  def ms(native), do: System.convert_time_unit(native, :native, :microsecond) / 1000

  @doc false
  # What a span ended by: of an exception its module alone, for what it says may quote anything.
  def error(%{kind: :error, reason: reason} = metadata) do
    ModuleName.shown(Exception.normalize(:error, reason, metadata[:stacktrace] || []).__struct__)
  end

  def error(%{kind: kind}), do: to_string(kind)

  # ── what is logged ──

  defp failed(handler, event, kind, reason, stacktrace) do
    if :atomics.add_get(handler.counts, @failed, 1) == 1 do
      Writer.write({:handler_failed, handler.id, event, Failure.shown(kind, reason, of_app(stacktrace))})
    end

    :ok
  end

  # Where the VM's own functions fail, the place is their caller's.
  defp of_app(stacktrace), do: Enum.drop_while(stacktrace, fn {_, _, _, at} -> at[:file] == nil end)
end
