defmodule BilldogEng.Log.Diagnosis do
  @moduledoc false
  # Returns the probable cause of a request's error and the remedy: two phrases without a full stop at their end. Pure,
  # but for `route/1`, which reads the environment's proxies.

  alias BilldogEng.Client.Address
  alias BilldogEng.Log.Text

  @proxies ~w(HTTPS_PROXY https_proxy HTTP_PROXY http_proxy ALL_PROXY all_proxy)

  @doc false
  # Returns the host and the proxy of a transport, as a line may show them: without userinfo.
  def route(transport) do
    variable = Enum.find(@proxies, &(System.get_env(&1, "") != ""))

    %{
      host: Address.shown(transport.host),
      proxy:
        case transport.proxy do
          nil -> nil
          :environment -> variable && "of #{variable}"
          address -> Address.shown(address)
        end,
      variable: variable
    }
  end

  @doc false
  # Returns `{cause, remedy}`.
  def of(error, route), do: cause(%{error | message: Text.shown(error.message)}, route)

  defp cause(%{status: status} = error, route) when status > 0, do: returned(status, error, route)

  defp cause(%{message: message, code: "INTERNAL_ERROR"}, _route) do
    {message, "report this, with the log, to the library's maintainers"}
  end

  defp cause(%{message: message, code: "INVALID_REQUEST"}, _route) do
    {"the request can't be made: #{message}", "remove line breaks and other control characters from :api_key"}
  end

  defp cause(%{message: message}, route) do
    cond do
      message =~ "proxy authorization required" ->
        unauthorised_proxy(route)

      message =~ "tunnel error" ->
        by_proxy("the proxy #{route.proxy} does not connect to the host", message)

      message =~ ~r/certificate|tls|handshake|corrupt message|InvalidContentType|peer is/i ->
        tls(message, route)

      route.proxy != nil and unreachable?(message) ->
        by_proxy("the proxy #{route.proxy} can't be reached", message)

      message =~ "lookup address" ->
        unknown_name(message, route)

      message =~ "refused" ->
        {"#{route.host} refuses the connection: #{message}",
         "check :host and its port, and that the ingest is running" <> perhaps_a_proxy(route)}

      true ->
        unreachable(message, route)
    end
  end

  defp returned(status, error, route) do
    cause = "the ingest returned HTTP #{status}" <> message(error, status)

    case status do
      407 ->
        unauthorised_proxy(route)

      key when key in [401, 403] ->
        {cause,
         "compare :api_key with the key of the project, quotes included, and check that :host is that project's ingest"}

      429 ->
        {cause, "send less often, or try again later; if it stays so, check the project's quota"}

      path when path in 300..399 or path in [404, 405] ->
        {cause,
         "set :host to the ingest's address with its version, such as https://api.billdog.io/v1, without /ingest-events"}

      _ when error.code == "MALFORMED_RESPONSE" ->
        {cause,
         "a proxy or a login page of the network responds in place of the ingest: open :host from this machine with curl"}

      _ when status >= 500 ->
        {cause, "the ingest, or a proxy before it, fails: try again later"}

      _ ->
        {cause, "the ingest refuses the request: see its message, and update the library or :host"}
    end
  end

  # A response without a message has the message "HTTP 503".
  defp message(error, status) do
    if error.message == "HTTP #{status}", do: "", else: ": #{error.message}"
  end

  defp tls(message, route) do
    {"TLS with #{route.host} failed: #{message}",
     cond do
       message =~ ~r/UnknownIssuer|UnhandledCriticalExtension|no trust|cacertfile/i ->
         "no trusted authority has signed the host's certificate: install the system's authorities (apt-get install ca-certificates), or set :cacertfile or SSL_CERT_FILE to a file with the right one"

       message =~ "CaUsedAsEndEntity" ->
         "the host presents the certificate of an authority: let it present a certificate that an authority has signed, and set :cacertfile to the authority's"

       message =~ ~r/not valid for name/i ->
         "the certificate is another host's: check :host"

       message =~ ~r/expired|not valid yet/i ->
         "the certificate has expired or is not valid yet: renew it, or correct this machine's clock"

       message =~ ~r/corrupt message|InvalidContentType/ ->
         "the host's port does not speak TLS: check the port in :host, and http:// or https://"

       true ->
         "check :host, :cacertfile and the network between this machine and the host"
     end}
  end

  defp by_proxy(cause, message) do
    {"#{cause}: #{message}",
     "check the :proxy option, or with :environment HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, and that the proxy allows this host"}
  end

  defp unauthorised_proxy(route) do
    {"the proxy #{route.proxy} requires a name and a password (407)",
     "add them to the proxy's address: http://name:password@proxy:3128"}
  end

  defp unknown_name(message, route) do
    {"DNS does not know the name #{URI.parse(route.host).host}: #{message}",
     "check :host, and that this machine resolves names" <> perhaps_a_proxy(route)}
  end

  defp unreachable(message, route) do
    {"#{route.host} can't be reached: #{message}",
     "check :host and its port, and that no firewall is in the way" <> perhaps_a_proxy(route)}
  end

  # A network that can only be left through a proxy looks like any of these.
  defp perhaps_a_proxy(%{proxy: nil, variable: variable}) when variable != nil,
    do: "; #{variable} is set here, but only used with proxy: :environment"

  defp perhaps_a_proxy(_route), do: ""

  defp unreachable?(message), do: message =~ ~r/lookup address|refused|unreachable|no route/i
end
