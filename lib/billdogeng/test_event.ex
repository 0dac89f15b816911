defmodule BilldogEng.TestEvent do
  @moduledoc false
  # One event by the way that a client's take (its host, proxy, TLS, key), and what may be wrong where it fails.
  # It is a request of its own, so it tells the status and the time; no queue, hook or spool of the app's sees it.

  alias BilldogEng.{Native, Options, Roots, Transport}

  defstruct [:api_key, :transport]

  @name "billdogeng_test_event"
  @user "billdogeng-test"

  @doc false
  # The modules of these apps that `use BilldogEng`.
  def clients(apps) do
    for app <- apps,
        Application.load(app) in [:ok, {:error, {:already_loaded, app}}],
        module <- Application.spec(app, :modules) || [],
        Code.ensure_loaded?(module) and function_exported?(module, :__billdogeng__, 0),
        do: module
  end

  @doc false
  # From a client's options. Raises `ArgumentError` for what can't be used, as a start would.
  def new(opts) do
    # Only a live client warns and looks for certificates.
    case opts |> Keyword.delete(:name) |> Keyword.put(:mode, :disabled) |> Options.parse() do
      {:ok, options} ->
        %__MODULE__{
          api_key: options.native.api_key,
          transport: %{options.transport | max_retries: 0}
        }

      {:error, message} ->
        raise ArgumentError, message
    end
  end

  @doc false
  # What can be said before, as `{label, text}`.
  def facts(%{transport: transport}) do
    [
      {"host", shown(transport.host)},
      {"proxy", proxy(transport.proxy)},
      {"library", library()},
      {"TLS roots", Roots.describe(transport.host, transport.cacertfile)}
    ]
  end

  defp proxy(nil), do: "none"
  defp proxy(:environment), do: "what the environment says"
  defp proxy(address), do: shown(address)

  defp library do
    case Path.wildcard(Path.join(:code.priv_dir(:billdogeng), "native/billdogeng_nif.{so,dll}")) do
      [path | _] -> path
      [] -> "none in #{:code.priv_dir(:billdogeng)}"
    end
  end

  # An address may hold a name and a password.
  defp shown(address) do
    case URI.parse(address) do
      %URI{userinfo: nil} -> address
      uri -> to_string(%{uri | userinfo: nil, authority: nil})
    end
  end

  @doc false
  # `{:ok, status, ms}`, or `{:error, status | nil, ms | nil, cause, remedy}`. The key is in neither.
  def send(%{api_key: ""}) do
    {:error, nil, nil, "there is no key: :api_key is missing or blank",
     ~s|set it in config/runtime.exs, such as config :my_app, MyApp.Analytics, api_key: System.fetch_env!("BILLDOG_API_KEY"), | <>
       "and see that the variable is set here and MIX_ENV is the one that you mean; or give --api-key"}
  end

  def send(%{api_key: key, transport: transport} = test) do
    with nil <- Native.load_error() do
      began = System.monotonic_time()
      answer = Transport.exchange(transport, path: "/ingest-events", headers: headers(key), body: body(key))
      ms = System.convert_time_unit(System.monotonic_time() - began, :native, :millisecond)
      told(answer, ms, test)
    else
      reason ->
        {:error, nil, nil, "the native library could not be loaded: #{reason}", Native.load_remedy()}
    end
  end

  defp headers(key), do: [{"x-api-key", key}, {"x-billdog-api-key", key}]

  defp body(key) do
    event = %{
      event_name: @name,
      event_timestamp: Native.now_ms(),
      properties: %{sent_by: "mix billdogeng.send_test_event"},
      user_id: @user
    }

    %{api_key: key, events: [event]}
  end

  defp told({:ok, _data, status, false}, ms, _test), do: {:ok, status, ms}

  defp told({:ok, _data, status, true}, ms, _test) do
    {:error, status, ms, "the project's quota is used up: the ingest took the event and stored nothing",
     "raise the project's quota, or wait for its next period"}
  end

  defp told({:error, error}, ms, test) do
    {cause, remedy} = diagnosis(error, test.transport)

    {:error, if(error.status > 0, do: error.status), ms, hide(cause, test.api_key), remedy}
  end

  # A short key could be part of any word.
  defp hide(text, key), do: if(byte_size(key) >= 8, do: String.replace(text, key, "[api_key]"), else: text)

  # ── what may be wrong ──

  @doc false
  # `{cause, remedy}` of an error.
  def diagnosis(%{status: status} = error, transport) when status > 0, do: answered(status, error, transport)

  def diagnosis(%{message: message, code: "INVALID_REQUEST"}, _transport) do
    {"the request can't be made: #{message}", "look for a line break or other control characters in the key"}
  end

  def diagnosis(%{message: message}, transport) do
    cond do
      message =~ "proxy authorization required" ->
        unauthorised_proxy(transport)

      message =~ "tunnel error" ->
        by_proxy("the proxy #{proxy(transport.proxy)} gives no way to the host", message)

      message =~ ~r/certificate|tls|handshake|corrupt message|InvalidContentType|peer is/i ->
        tls(message, transport)

      proxied?(transport) and unreachable?(message) ->
        by_proxy("the proxy #{proxy(transport.proxy)} can't be reached", message)

      message =~ "lookup address" ->
        unknown_name(message, transport)

      true ->
        unreachable(message, transport)
    end
  end

  defp answered(status, error, transport) do
    said = "the ingest answered #{status}: #{error.message}"

    case status do
      407 ->
        unauthorised_proxy(transport)

      key when key in [401, 403] ->
        {said,
         "the key is not one of a project there: compare :api_key with the project's, blanks and quotes included, and :host with the ingest that it is for"}

      429 ->
        {said, "the ingest is asked too often; try again later. If it stays so, look at the project's quota"}

      path when path in 300..399 or path in [404, 405] ->
        {said,
         "nothing takes events there: :host is the ingest's address with its version, such as https://api.billdog.io/v1, without /ingest-events"}

      _ when error.code == "MALFORMED_RESPONSE" ->
        {said,
         "something in between answers in the ingest's place, a proxy or a login page of the network: open :host from this machine with curl"}

      _ when status >= 500 ->
        {said, "the ingest, or a proxy before it, is in trouble: try again later"}

      _ ->
        {said, "the ingest refuses what this version sends: see its message, and update the library or :host"}
    end
  end

  defp tls(message, transport) do
    {"TLS with #{shown(transport.host)} failed: #{message}",
     cond do
       message =~ ~r/UnknownIssuer|UnhandledCriticalExtension|no trust|cacertfile/i ->
         "nobody trusted here has signed the host's certificate: install the system's authorities (apt-get install ca-certificates), or name a file with the right one by :cacertfile or SSL_CERT_FILE"

       message =~ ~r/not valid for name/i ->
         "the certificate is another host's: look for a mistake in :host"

       message =~ ~r/expired|not valid yet/i ->
         "the certificate is out of date, or this machine's clock is wrong"

       message =~ ~r/corrupt message|InvalidContentType/ ->
         "nobody speaks TLS on that port: look at the port in :host, and at http:// and https://"

       true ->
         "look at :host, :cacertfile and what stands between this machine and the host"
     end}
  end

  defp by_proxy(what, message) do
    {"#{what}: #{message}",
     "look at the :proxy option, or with :environment at HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, and whether it lets this host through"}
  end

  defp unauthorised_proxy(transport) do
    {"the proxy #{proxy(transport.proxy)} asks for a name and a password (407)",
     "give them in the proxy's address: http://name:password@proxy:3128"}
  end

  defp unknown_name(message, transport) do
    {"the name #{URI.parse(transport.host).host} is not known to DNS: #{message}",
     "look for a mistake in :host, and whether this machine resolves names" <> perhaps_a_proxy(transport)}
  end

  defp unreachable(message, transport) do
    {"#{shown(transport.host)} can't be reached: #{message}",
     "look at :host and its port, and whether a firewall lets this machine out" <> perhaps_a_proxy(transport)}
  end

  # A network that only a proxy leads out of looks like any of these.
  defp perhaps_a_proxy(%{proxy: nil}) do
    if variable = Enum.find(proxies(), &(System.get_env(&1, "") != "")),
      do: "; #{variable} is set here, which is heeded with proxy: :environment alone",
      else: ""
  end

  defp perhaps_a_proxy(_transport), do: ""

  defp proxied?(%{proxy: :environment}), do: Enum.any?(proxies(), &(System.get_env(&1, "") != ""))
  defp proxied?(%{proxy: proxy}), do: proxy != nil

  defp proxies, do: ~w(HTTPS_PROXY https_proxy HTTP_PROXY http_proxy ALL_PROXY all_proxy)

  defp unreachable?(message), do: message =~ ~r/lookup address|refused|unreachable|no route/i
end
