defmodule BilldogEng.Client.Options do
  @moduledoc false
  # A client's options, checked once, in the process that starts the client. `Options.Schema` is their table.
  #
  #     config :billdogeng ─┐ defaults for all clients
  #     :transport ─────────┤ several options in one map
  #     the client's own ───┴─▶ checked values ─▶ hooks, transport, and a map for the native library
  #
  # A wrong value raises, so that a start reports it with the option's name.

  alias BilldogEng.Client.{Hooks, Native, Roots, Secret, Suggestion}
  alias BilldogEng.Client.Options.{Schema, Type}
  alias BilldogEng.Log.Writer

  # `native` has every option, by its name, as the native library reads it.
  defstruct [:name, :mode, :native, :hooks, :transport, :enable_logging]

  # Options of the original's package for parts that are not in this one.
  @elsewhere [:local_evaluation, :personal_api_key, :polling_interval]

  # `config :billdogeng` also has options of the library, which are no client's.
  @library [:in_app]

  @doc false
  # Returns `{:ok, options}`. Raises `ArgumentError` for a value that can't be used.
  def parse(opts) do
    given = opts |> keywords!() |> to_map()
    defaults = configured()
    Enum.each(defaults, &check/1)
    Enum.each(given, &check/1)
    given = beneath(given, defaults)
    warn_of_unknown(given)
    Enum.each(given, &warn_of_effect(&1, given[:name]))

    values = complete(given)
    transport = Map.take(values, [:enable_logging | Schema.request_names()])
    native = native(values, values.name)

    if native.mode == :live do
      check_natively(native)
      warn_of_plain_http(native.host)
    end

    {:ok,
     %__MODULE__{
       name: values.name,
       mode: native.mode,
       enable_logging: values.enable_logging == true,
       transport: %{transport | enable_logging: values.enable_logging == true},
       hooks:
         Hooks.new(values.before_send, values.global_properties, values.group_type_index, values.context),
       native: native
     }}
  end

  @doc false
  # Returns `opts`. The error does not show them: the key is among them.
  def keywords!(opts) do
    if Keyword.keyword?(opts),
      do: opts,
      else: raise(ArgumentError, "expected the options of a client as a keyword list")
  end

  # Each client has a name of its own, so no default is one.
  defp configured do
    :billdogeng |> Application.get_all_env() |> Keyword.drop([:name | @library]) |> to_map()
  end

  @doc false
  # The first of repeated keys counts, as for `Keyword.get/2`. Values that a child spec hides are revealed.
  def to_map(opts), do: opts |> Enum.reverse() |> Map.new(&reveal/1)

  defp reveal({option, value} = given) do
    if is_function(value, 0) and Type.hideable?(Schema.type(option)),
      do: reveal({option, value.()}),
      else: given
  end

  @doc false
  # Hides secrets in the arguments of a child. Supervisors put these into their reports, where a function shows nothing
  # of its environment. A value without a secret stays readable.
  def hide(opts) do
    opts
    |> keywords!()
    |> Enum.map(fn {option, value} ->
      hide? = not is_function(value) and Type.secret?(Schema.type(option), value)
      {option, if(hide?, do: Secret.hide(value), else: value)}
    end)
  end

  @doc false
  # Merges options over defaults. A `:transport` overrides the default of each of its parts, also of those that it
  # does not have.
  def beneath(%{transport: %{host: _} = transport} = given, defaults) do
    {parts, rest} = Map.split(defaults, Schema.request_names())
    Map.merge(rest, %{given | transport: Map.merge(parts, transport)})
  end

  def beneath(given, defaults), do: Map.merge(defaults, given)

  # Returns the value of every option.
  defp complete(given) do
    parts = Map.take(given[:transport] || %{}, Schema.request_names())
    Schema.defaults() |> Map.merge(parts) |> Map.merge(Map.take(given, Schema.names()))
  end

  defp native(values, name) do
    native = Schema.to_native(values)

    case mode(native, name) do
      :live ->
        dir = expanded(native.spool_dir, name)
        %{native | cacertfile: native.cacertfile || Roots.cacertfile(native.host), spool_dir: dir}

      # Such a client connects nowhere and has no files: no certificates are looked for.
      mode ->
        %{native | mode: mode, cacertfile: nil, spool_dir: nil}
    end
  end

  # An unset variable must not prevent an app from starting.
  defp mode(%{mode: :live, api_key: ""}, name) do
    Writer.write(:no_key, name)
    :disabled
  end

  defp mode(%{mode: mode}, _name), do: mode

  # A relative path belongs to the directory in which the VM is now, not to a later one. "~" needs HOME.
  defp expanded(nil, _name), do: nil

  defp expanded(dir, name) do
    Path.expand(dir)
  rescue
    error ->
      Writer.write({:spool_dir_invalid, dir, Exception.message(error)}, name)
      nil
  end

  # ── transports ──

  @doc false
  # Raises `ArgumentError` for a part of a transport that can't be used.
  def check_transport(transport) do
    transport |> Map.take(Schema.request_names()) |> Enum.each(&check/1)
  end

  @doc false
  # Returns the options of a transport as the native library reads them.
  def native_transport(config) do
    parts = Map.new(Schema.request_names(), &{&1, config[&1]})
    native = Schema.to_native(parts)
    %{native | cacertfile: native.cacertfile || Roots.cacertfile(native.host)}
  end

  # ── checks ──

  defp check({:transport, %{host: _} = transport}), do: check_transport(transport)

  defp check({option, value}) do
    type = Schema.type(option)
    unless type == nil or Type.valid?(type, value), do: refuse(option, value, nil)
  end

  defp refuse(option, value, reason) do
    raise ArgumentError, Type.error(option, Schema.type(option), value, reason)
  end

  # The native library parses addresses and certificates again, and more strictly.
  defp check_natively(native) do
    with nil <- Native.load_error(),
         {:error, option, reason} <- Native.check(native) do
      refuse(option, native[option], reason)
    end
  end

  defp warn_of_effect({option, value}, name) do
    notice = Type.effect(option, Schema.type(option), value)
    if notice, do: Writer.write(notice, name)
  end

  # The key and all events can be read on their way.
  defp warn_of_plain_http(host) do
    with %URI{scheme: "http", host: name} when is_binary(name) <- URI.parse(host),
         false <- loopback?(String.downcase(name)) do
      Writer.once({:plain_http, name}, {:plain_http, name})
    end
  end

  defp loopback?("localhost"), do: true

  defp loopback?(name) do
    case :inet.parse_strict_address(String.to_charlist(name)) do
      {:ok, {127, _, _, _}} -> true
      {:ok, address} -> address == {0, 0, 0, 0, 0, 0, 0, 1}
      {:error, _} -> false
    end
  end

  defp warn_of_unknown(given) do
    case Map.keys(given) -- (Schema.names() ++ @elsewhere) do
      [] -> :ok
      unknown -> Writer.write({:options_unknown, Suggestion.listed(unknown, Schema.names())}, given[:name])
    end
  end
end
