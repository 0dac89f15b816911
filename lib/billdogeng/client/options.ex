defmodule BilldogEng.Client.Options do
  @moduledoc false
  # A client's options, checked once, in the process that asks for the client.
  #
  # A wrong value raises, so that a start reports it with the option's name. Four options accept any term, as the
  # original did: by the order of terms an atom is more than any number, so `:infinity`, and nil, are bounds without
  # a limit.
  #
  # `config :billdogeng` has defaults for all clients; what a client is given stands above them.

  alias BilldogEng.Transport
  alias BilldogEng.Client.{Address, Hooks, Native, Secret, Suggestion}
  alias BilldogEng.Log.Warning
  alias BilldogEng.Client.Options.Effects
  require Logger

  defstruct [:name, :mode, :native, :hooks, :transport, :enable_logging]

  @transport [
    host: "https://api.billdog.io/v1",
    request_timeout: 10_000,
    gzip: true,
    max_retries: 3,
    sleep_fn: &Process.sleep/1,
    proxy: nil,
    cacertfile: nil
  ]

  @original [
    api_key: nil,
    transport: nil,
    flush_at: 20,
    flush_interval: 10_000,
    max_queue_size: 1_000,
    group_type_index: nil,
    enable_logging: false
  ]

  @added [
    name: nil,
    mode: :live,
    max_queue_bytes: 64 * 1024 * 1024,
    max_batch_size: 1_000,
    max_batch_bytes: 1024 * 1024,
    max_event_bytes: 1024 * 1024,
    shutdown_timeout: 5_000,
    before_send: nil,
    global_properties: nil,
    context: false,
    insert_ids: false,
    person_profiles: nil,
    geoip_resolution_level: nil,
    spool_dir: nil,
    max_spool_bytes: 256 * 1024 * 1024,
    max_spool_age: 7 * 24 * 60 * 60 * 1000,
    spool_sync: :interval
  ]

  @defaults @original ++ @transport ++ @added

  # Of the original's package, for parts that are not in this one.
  @elsewhere [:local_evaluation, :personal_api_key, :polling_interval]

  # Of `config :billdogeng`, and no client's option.
  @library [:in_app]

  @largest 0xFFFF_FFFF_FFFF_FFFF

  @doc false
  def defaults, do: @defaults

  @doc false
  # Returns `{:ok, options}`. Raises `ArgumentError` for a value that can't be used.
  def parse(opts) do
    unless Keyword.keyword?(opts) do
      raise ArgumentError, "expected the options of a client as a keyword list"
    end

    given = to_map(opts)
    defaults = configured()
    Enum.each(defaults, &check/1)
    Enum.each(given, &check/1)
    given = beneath(given, defaults)
    warn_of_unknown(given)
    Enum.each(given, &Effects.warn/1)

    api_key = present(given[:api_key])
    transport = transport(given)
    mode = mode(given, api_key)
    native = native(given, transport, api_key, mode)

    if mode == :live do
      check_natively(native)
      warn_of_plain_http(transport.host)
    end

    {:ok,
     %__MODULE__{
       name: given[:name],
       mode: mode,
       enable_logging: get(given, :enable_logging) == true,
       transport: Map.put(transport, :enable_logging, get(given, :enable_logging) == true),
       hooks:
         Hooks.new(
           given[:before_send],
           given[:global_properties],
           given[:group_type_index],
           get(given, :context)
         ),
       native: native
     }}
  end

  # A name is one client's, so it is nobody's default.
  defp configured do
    :billdogeng |> Application.get_all_env() |> Keyword.drop([:name | @library]) |> to_map()
  end

  @doc false
  # The first of repeated keys counts, as for `Keyword.get/2`. Values that a child spec hides are revealed.
  def to_map(opts), do: opts |> Enum.reverse() |> Map.new(&reveal/1)

  # Options that may be functions of no arguments that return the value.
  @hidden [:api_key, :host, :proxy, :transport]

  defp reveal({option, value}) when option in @hidden and is_function(value, 0),
    do: reveal({option, value.()})

  defp reveal(given), do: given

  @doc false
  # Supervisors put a child's arguments into their reports, where a function shows nothing of what it holds. What
  # holds no secret stays readable.
  def hide(opts) do
    Enum.map(opts, fn {option, value} = given ->
      if secret?(given) and not is_function(value), do: {option, Secret.hide(value)}, else: given
    end)
  end

  defp secret?({:api_key, _key}), do: true
  defp secret?({option, address}) when option in [:host, :proxy], do: Address.secret?(address)
  defp secret?({:transport, %{} = parts}), do: Enum.any?(Map.take(parts, [:host, :proxy]), &secret?/1)
  defp secret?(_given), do: false

  @doc false
  # A whole `:transport` stands above the default of any part of it.
  def beneath(%{transport: %{host: _} = transport} = given, defaults) do
    {parts, rest} = Map.split(defaults, Keyword.keys(@transport))
    Map.merge(rest, %{given | transport: Map.merge(parts, transport)})
  end

  def beneath(given, defaults), do: Map.merge(defaults, given)

  defp geoip_resolution_level(given) do
    level = get(given, :geoip_resolution_level)
    if level, do: to_string(level)
  end

  # An unset variable must not keep an app from starting.
  defp mode(given, api_key) do
    case get(given, :mode) do
      :live when api_key == nil ->
        Warning.log(
          ":api_key is missing or blank: nothing is sent, events are counted (disabled). " <>
            "Set it, or set mode: :disabled to say so"
        )

        :disabled

      mode ->
        mode
    end
  end

  # Only a live client connects anywhere: the others look for no certificates.
  defp http(transport, :live), do: Transport.http(transport)
  defp http(transport, _idle), do: Transport.http(%{transport | host: ""})

  defp native(given, transport, api_key, mode) do
    %{
      mode: mode,
      api_key: api_key || "",
      http: http(transport, mode),
      flush_at: given |> get(:flush_at) |> bound(&ceil/1, 1),
      flush_interval: max(get(given, :flush_interval), 1),
      max_queue_size: given |> get(:max_queue_size) |> bound(&floor/1, 0),
      max_queue_bytes: get(given, :max_queue_bytes),
      max_batch_size: get(given, :max_batch_size),
      max_batch_bytes: get(given, :max_batch_bytes),
      max_event_bytes: get(given, :max_event_bytes),
      shutdown_timeout: get(given, :shutdown_timeout),
      spool: if(mode == :live, do: spool(given)),
      external_sleep: transport.sleep_fn != (&Process.sleep/1),
      group_index: group_index(given[:group_type_index]),
      insert_ids: get(given, :insert_ids),
      person_profiles: get(given, :person_profiles),
      geoip_resolution_level: geoip_resolution_level(given)
    }
  end

  defp spool(given) do
    if dir = expanded(given[:spool_dir]) do
      %{
        dir: dir,
        max_bytes: get(given, :max_spool_bytes),
        max_age: get(given, :max_spool_age),
        # The native default; tests set another one.
        patience: nil,
        sync: get(given, :spool_sync) == :always
      }
    end
  end

  # A relative path belongs to the directory in which the VM is now, not to a later one. "~" needs HOME.
  defp expanded(nil), do: nil

  defp expanded(dir) do
    Path.expand(dir)
  rescue
    error ->
      Logger.error(
        "[BilldogEng:analytics] no :spool_dir, events are kept in memory alone: #{inspect(dir)} can't be " <>
          "expanded to an absolute path: #{Exception.message(error)}"
      )

      nil
  end

  defp get(given, option), do: Map.get(given, option, @defaults[option])

  # ── what the original takes ──

  # A key out of an environment or a file often comes with a line break.
  defp present(nil), do: nil

  defp present(key) do
    case key |> to_string() |> String.trim() do
      "" -> nil
      key -> key
    end
  end

  # The transport options given directly stand above those of `:transport`.
  defp transport(given) do
    parts = Keyword.keys(@transport)

    @transport
    |> Map.new()
    |> Map.merge(Map.take(given[:transport] || %{}, parts))
    |> Map.merge(Map.take(given, parts))
  end

  @doc false
  # Raises `ArgumentError` for a part of a transport that can't be used.
  def check_transport(transport) do
    transport |> Map.take(Keyword.keys(@transport)) |> Enum.each(&check/1)
  end

  defp bound(number, round, least) when is_number(number) do
    case max(round.(number), least) do
      bound when bound <= @largest -> bound
      _ -> nil
    end
  end

  defp bound(_unlimited, _round, _least), do: nil

  # Types as `{kind, name, number}`. A number other than 0 to 4 hides one under the type's other spelling,
  # and adds nothing; so the original.
  defp group_index(index) when is_map(index) and not is_struct(index) do
    for {type, number} <- index, number, {kind, name} <- List.wrap(group_type(type)) do
      {kind, name, if(is_integer(number) and number in 0..4, do: number)}
    end
  end

  defp group_index(_ignored), do: []

  defp group_type(type) when is_atom(type), do: {"a", Atom.to_string(type)}
  defp group_type(type) when is_integer(type), do: {"i", Integer.to_string(type)}
  defp group_type(type) when is_binary(type), do: if(String.valid?(type), do: {"s", type})
  defp group_type(_type), do: nil

  # ── checks ──

  @positive [:max_queue_bytes, :max_batch_size, :max_batch_bytes, :max_event_bytes, :max_spool_bytes]

  defp check({option, value}) when option in @positive do
    must(option, value, is_integer(value) and value in 1..@largest, "an integer from 1")
  end

  defp check({:api_key, value}) do
    # No value is shown: it may be the key all the same.
    unless value == nil or key?(value) do
      raise ArgumentError,
            "invalid value for :api_key: expected the project's key as a string of UTF-8 without control characters"
    end
  end

  # It may hold a password: of what is none, the value isn't shown.
  defp check({:transport, value}) do
    case value do
      nil ->
        :ok

      %{host: _} ->
        check_transport(value)

      _ ->
        raise ArgumentError,
              "invalid value for :transport: expected what BilldogEng.Transport.config/1 returns"
    end
  end

  defp check({:flush_interval, value}) do
    must(
      :flush_interval,
      value,
      is_integer(value) and value in 0..@largest,
      "milliseconds, an integer from 0"
    )
  end

  defp check({:shutdown_timeout, value}) do
    must(
      :shutdown_timeout,
      value,
      is_integer(value) and value in 0..@largest,
      "milliseconds, an integer from 0"
    )
  end

  defp check({:spool_dir, value}) do
    must(
      :spool_dir,
      value,
      value == nil or (text?(value) and value != ""),
      "the path of a directory, a string"
    )
  end

  defp check({:max_spool_age, value}) do
    must(:max_spool_age, value, is_integer(value) and value in 1..@largest, "milliseconds, an integer from 1")
  end

  defp check({:spool_sync, value}) do
    must(:spool_sync, value, value in [:interval, :always], ":interval or :always")
  end

  defp check({:host, value}) do
    if problem = Address.problem(value) do
      raise ArgumentError,
            "invalid value for :host: expected an http:// or https:// address such as " <>
              "#{inspect(@transport[:host])}, got: #{shown(value)}, but #{problem}"
    end
  end

  defp check({:request_timeout, value}) do
    valid = value == :infinity or (is_integer(value) and value in 1..@largest)
    must(:request_timeout, value, valid, "milliseconds, an integer from 1, or :infinity")
  end

  defp check({:gzip, value}), do: must(:gzip, value, is_boolean(value), "true or false")

  defp check({:max_retries, value}) do
    valid = value == :infinity or (is_integer(value) and value in 0..@largest)
    must(:max_retries, value, valid, "an integer from 0, or :infinity")
  end

  defp check({:sleep_fn, value}) do
    must(:sleep_fn, value, is_function(value, 1), "a function of the milliseconds to wait")
  end

  # Its address may hold a password, which an error must not show.
  defp check({:proxy, value}) do
    problem = if value not in [nil, :environment], do: Address.problem(value)

    if problem do
      raise ArgumentError,
            "invalid value for :proxy: expected an http:// or https:// address, a string, or :environment for the " <>
              "usual variables; #{problem}"
    end
  end

  defp check({:cacertfile, value}) do
    valid = value == nil or (text?(path(value)) and certificates?(value))
    must(:cacertfile, value, valid, "the path of a readable file with certificates (PEM)")
  end

  defp check({:before_send, value}) do
    valid = value == nil or is_function(value, 1) or mfa?(value, 1)

    must(
      :before_send,
      value,
      valid,
      "a function of the event, or {module, function, args} of one that exists"
    )
  end

  defp check({:global_properties, value}) do
    valid =
      value == nil or (is_map(value) and not is_struct(value)) or is_function(value, 0) or mfa?(value, 0)

    must(
      :global_properties,
      value,
      valid,
      "a map, a function of no arguments, or {module, function, args} of one that exists"
    )
  end

  defp check({:context, value}), do: must(:context, value, is_boolean(value), "true or false")

  defp check({:mode, value}) do
    must(:mode, value, value in [:live, :test, :disabled], ":live, :test or :disabled")
  end

  defp check({:person_profiles, value}) do
    valid = value in [nil, :always, :never, :identified_only]
    must(:person_profiles, value, valid, ":always, :never, :identified_only or nil")
  end

  # Of the characters that a level could have; a header takes more, and a line break would begin another one.
  defp check({:geoip_resolution_level, value}) do
    valid =
      (is_atom(value) and not is_boolean(value)) or (is_binary(value) and value =~ ~r/\A[A-Za-z0-9_.-]+\z/)

    must(:geoip_resolution_level, value, valid, ~s(a word such as "none", or nil))
  end

  defp check({:insert_ids, value}), do: must(:insert_ids, value, is_boolean(value), "true or false")

  defp check({:name, value}) do
    valid =
      is_atom(value) or match?({:global, _}, value) or match?({:via, module, _} when is_atom(module), value)

    must(:name, value, valid, "an atom, {:global, term} or {:via, module, term}")
  end

  defp check(_not_added), do: :ok

  defp path(value) do
    Transport.path(value)
  rescue
    _ -> nil
  end

  defp certificates?(path) do
    case File.read(path) do
      {:ok, text} -> text =~ "-----BEGIN CERTIFICATE-----"
      {:error, _} -> false
    end
  end

  # As it will be called, with `given` arguments before its own.
  defp mfa?({module, function, args}, given) do
    is_atom(module) and is_atom(function) and is_list(args) and not List.improper?(args) and
      Code.ensure_loaded?(module) and function_exported?(module, function, length(args) + given)
  end

  defp mfa?(_value, _given), do: false

  defp key?(key) when is_atom(key), do: key |> Atom.to_string() |> key?()
  defp key?(key), do: text?(key) and not (String.trim(key) =~ ~r/[[:cntrl:]]/u)

  # What can be handed over as text: anything else would raise there, with all options in the report.
  defp text?(value), do: is_binary(value) and String.valid?(value)

  defp must(_option, _value, true, _accepted), do: :ok

  defp must(option, value, false, accepted) do
    raise ArgumentError, "invalid value for #{inspect(option)}: expected #{accepted}, got: #{shown(value)}"
  end

  @doc false
  # A value as a message may show it.
  def shown(value) when is_binary(value), do: value |> Address.shown() |> inspect(printable_limit: 200)
  def shown(value), do: inspect(value, limit: 10, printable_limit: 200)

  # What passes the checks is read once more by those who will use it: they know best.
  defp check_natively(%{http: http, api_key: api_key}) do
    with nil <- Native.load_error(),
         {:error, option, reason} <- Native.check(http, api_key) do
      raise ArgumentError, "invalid value for #{inspect(option)}: #{reason}"
    end
  end

  # The key and all events can be read on their way.
  defp warn_of_plain_http(host) do
    with %URI{scheme: "http", host: name} when is_binary(name) <- URI.parse(host),
         false <- loopback?(String.downcase(name)) do
      Warning.once({:plain_http, name}, "#{name} is sent the key and all events unencrypted: use https://")
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
    case Map.keys(given) -- (Keyword.keys(@defaults) ++ @elsewhere) do
      [] ->
        :ok

      unknown ->
        Warning.log("unknown options are ignored: #{Suggestion.listed(unknown, Keyword.keys(@defaults))}")
    end
  end
end
