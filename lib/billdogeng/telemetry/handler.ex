defmodule BilldogEng.Telemetry.Handler do
  @moduledoc false
  # The steps from a `:telemetry` event to the capture, for all handlers.
  #
  #     event ──▶ source ──▶ filter ──▶ distinct ID ──▶ sample ──▶ properties, groups ──▶ capture
  #
  # A source is a module with `read/4`. It receives the event's name, measurements, metadata and its own options, and
  # returns `{name, properties}`, or nil to capture nothing.
  #
  # `:telemetry` copies a handler's config out of a table at each event. So the config is only a key of a
  # `:persistent_term`, which is read without a copy.

  alias BilldogEng.{Analytics, Context}
  alias BilldogEng.Context.{Request, Table}
  alias BilldogEng.Log.{Failure, Writer}
  alias BilldogEng.Telemetry.MissingId
  alias BilldogEng.Terms.ModuleName

  @compile {:no_warn_undefined, :telemetry}

  @enforce_keys [:id, :client, :source, :options, :counts]
  defstruct @enforce_keys ++ [:distinct_id, :properties, :groups, :filter, :sampled]

  @common [:id, :distinct_id, :properties, :groups, :filter, :sample_rate]

  # Indices of `:counts`.
  @captured 1
  @without_id 2
  @failed 3

  # `:erlang.phash2/1` returns numbers below this one.
  @hashes 134_217_728

  # ── attaching ──

  def attach(client, events, {source, options}, opts) do
    unless Code.ensure_loaded?(:telemetry) do
      raise ArgumentError,
            ~s(handlers need :telemetry, which the app does not have: add {:telemetry, "~> 1.0"} to its deps)
    end

    check_options!(opts)
    client = unwrap(client)
    id = Keyword.fetch!(opts, :id)
    key = {__MODULE__, System.unique_integer([:positive])}

    # Attaches first, because this can fail, and to erase a `:persistent_term` slows down all processes.
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
            "handlers need :telemetry, which is not started: start the app's applications first"
  end

  def detach(id) do
    case Enum.filter(attached(), &(&1.id == id)) do
      [%{config: key} | _] ->
        with :ok <- :telemetry.detach(id) do
          :persistent_term.erase(key)
          MissingId.forget(key)
        end

      [] ->
        {:error, :not_found}
    end
  end

  def list do
    for {key, attached} <- Enum.group_by(attached(), & &1.config),
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

  defp attached do
    if Code.ensure_loaded?(:telemetry),
      do: Enum.filter(:telemetry.list_handlers([]), &match?(%{config: {__MODULE__, _}}, &1)),
      else: []
  end

  # A struct contains the API key, which must not be in handlers and their IDs.
  def unwrap(%{__struct__: BilldogEng, analytics: pid}), do: pid
  def unwrap(client), do: client

  # ── options ──

  defp check_options!(opts) do
    unknown = Keyword.keys(opts) -- @common
    if unknown != [], do: raise(ArgumentError, "unknown options of a handler: #{listed(unknown)}")
    for {option, value} <- opts, value != nil, do: check_option!(option, value)
  end

  defp check_option!(:filter, value),
    do: check!(:filter, function?(value), "a function of measurements and metadata")

  defp check_option!(option, value) when option in [:properties, :groups] do
    valid = function?(value) or map?(value) or Keyword.keyword?(value)

    check!(
      option,
      valid,
      "a map, a keyword list, or a function of measurements and metadata that returns one"
    )
  end

  defp check_option!(:distinct_id, value) do
    valid = function?(value) or is_binary(value) or is_integer(value) or is_atom(value)
    check!(:distinct_id, valid, "an ID, or a function of measurements and metadata that returns one")
  end

  defp check_option!(:sample_rate, value) do
    check!(:sample_rate, is_number(value) and value >= 0 and value <= 1, "a number from 0 to 1", value)
  end

  defp check_option!(:id, _any), do: :ok

  # Returns the name under which each kind of event is captured, or nil to capture none of this kind.
  def names(given, kinds) do
    given = given || []
    check!(:events, map?(given) or Keyword.keyword?(given), "a map or keyword list of names", given)

    case Enum.map(given, &elem(&1, 0)) -- kinds do
      [] -> Map.new(kinds, fn kind -> {kind, name(given[kind], kind)} end)
      unknown -> raise ArgumentError, refusal(:events, "names for #{listed(kinds)}", Enum.sort(unknown))
    end
  end

  defp name(given, kind) when given in [nil, true], do: Atom.to_string(kind)
  defp name(false, _kind), do: nil

  defp name(name, kind) do
    check!(:events, is_binary(name) or is_atom(name), "a name for #{inspect(kind)}, or false", name)
    name
  end

  defp listed(names), do: Enum.map_join(names, ", ", &inspect/1)

  # Raises if `valid` is false. Pass no value that may be personal data.
  def check!(option, valid, expected), do: valid || raise(ArgumentError, refusal(option, expected))

  def check!(option, valid, expected, value),
    do: valid || raise(ArgumentError, refusal(option, expected, value))

  defp refusal(option, expected, value),
    do: refusal(option, "#{expected}, got: #{inspect(value, limit: 10, printable_limit: 200)}")

  defp refusal(option, expected), do: "invalid value for #{inspect(option)}: expected #{expected}"

  defp function?(value), do: is_function(value, 2) or is_function(value, 3)
  defp map?(value), do: is_map(value) and not is_struct(value)

  defp sampled(rate) when rate in [nil, 1, 1.0], do: nil
  defp sampled(rate), do: round(rate * @hashes)

  # ── events ──

  def handle(event, measurements, metadata, key) do
    case :persistent_term.get(key, nil) do
      nil -> :ok
      handler -> run(handler, event, measurements, metadata)
    end
  end

  defp run(handler, event, measurements, metadata) do
    with {name, properties} <- handler.source.read(event, measurements, metadata, handler.options),
         true <- passes?(handler.filter, event, measurements, metadata),
         context = context(metadata),
         {:ok, id} <- distinct_id(handler, context, event, measurements, metadata),
         true <- handler.sampled == nil or :erlang.phash2(id) < handler.sampled do
      properties = merged(properties, handler.properties, event, measurements, metadata)
      groups = value(handler.groups, event, measurements, metadata) || %{}
      :atomics.add(handler.counts, @captured, 1)
      Context.within(context, fn -> Analytics.capture(handler.client, id, name, properties, groups) end)
    end

    :ok
  catch
    kind, reason -> failed(handler, event, kind, reason, __STACKTRACE__)
  end

  defp passes?(nil, _event, _measurements, _metadata), do: true
  defp passes?(filter, event, measurements, metadata), do: !!call(filter, event, measurements, metadata)

  defp distinct_id(handler, context, event, measurements, metadata) do
    {id, source} =
      case handler.distinct_id do
        nil -> {if(context, do: context.distinct_id), context}
        given -> {value(given, event, measurements, metadata), :option}
      end

    if id in [nil, ""] do
      :atomics.add(handler.counts, @without_id, 1)
      MissingId.report(handler, event, metadata, source)
      :error
    else
      {:ok, id}
    end
  end

  # A request has only the context of its conn: its process may have served another request before.
  defp context(%{conn: %{private: %{billdogeng_context: context}}}), do: context
  defp context(%{conn: %{private: _}}), do: Request.unanswered()

  # A nested LiveView has the context of its parent.
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
    case value(given, event, measurements, metadata) do
      nil -> properties
      more when map_size(properties) == 0 -> more
      more -> Map.merge(properties, Map.new(more))
    end
  end

  defp value(function, event, measurements, metadata) when is_function(function) do
    call(function, event, measurements, metadata)
  end

  defp value(value, _event, _measurements, _metadata), do: value

  def call(function, _event, measurements, metadata) when is_function(function, 2) do
    function.(measurements, metadata)
  end

  def call(function, event, measurements, metadata), do: function.(event, measurements, metadata)

  # Converts native time units to milliseconds, to the microsecond.
  def ms(native), do: System.convert_time_unit(native, :native, :microsecond) / 1000

  # Returns the module of a span's exception, without its message, which may contain any value; or the kind.
  def error(%{kind: :error, reason: reason} = metadata) do
    ModuleName.shown(Exception.normalize(:error, reason, metadata[:stacktrace] || []).__struct__)
  end

  def error(%{kind: kind}), do: to_string(kind)

  # ── failures ──

  defp failed(handler, event, kind, reason, stacktrace) do
    if :atomics.add_get(handler.counts, @failed, 1) == 1 do
      Writer.write({:handler_failed, handler.id, event, Failure.shown(kind, reason, of_app(stacktrace))})
    end

    :ok
  end

  # Functions of the VM have no file. If one fails, the log names its caller.
  defp of_app(stacktrace), do: Enum.drop_while(stacktrace, fn {_, _, _, at} -> at[:file] == nil end)
end
