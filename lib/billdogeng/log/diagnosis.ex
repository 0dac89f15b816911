defmodule BilldogEng.Log.Diagnosis do
  @moduledoc false
  # From an error of a request to its probable cause, and what to do about it: two phrases without a full stop at
  # their end. Pure, but for `route/1`, which looks at the environment's proxies.

  alias BilldogEng.Client.Address

  @proxies ~w(HTTPS_PROXY https_proxy HTTP_PROXY http_proxy ALL_PROXY all_proxy)

  @doc false
  # By which way requests go, as far as a diagnosis needs it and may show it: no userinfo.
  def route(transport) do
    variable = Enum.find(@proxies, &(System.get_env(&1, "") != ""))

    %{
      host: Address.shown(transport.host),
      proxy:
        case transport.proxy do
          nil -> nil
          :environment -> variable && "that #{variable} names"
          address -> Address.shown(address)
        end,
      variable: variable
    }
  end

  @doc false
  # Returns `{cause, remedy}`.
  def of(error, route), do: cause(%{error | message: shown(error.message)}, route)

  # Characters of a message that are shown: an ingest may say anything, at any length.
  @most_shown 300

  @doc false
  # A message as it fits into one line of a log.
  def shown(message) do
    line = message |> String.slice(0, @most_shown) |> String.replace(~r/[[:cntrl:]]+/u, " ")
    if String.length(message) > @most_shown, do: line <> "…", else: line
  end

  defp cause(%{status: status} = error, route) when status > 0, do: answered(status, error, route)

  defp cause(%{message: message, code: "INTERNAL_ERROR"}, _route) do
    {message, "report this with the log to the library's maintainers"}
  end

  defp cause(%{message: message, code: "INVALID_REQUEST"}, _route) do
    {"the request can't be made: #{message}", "look for a line break or other control characters in the key"}
  end

  defp cause(%{message: message}, route) do
    cond do
      message =~ "proxy authorization required" ->
        unauthorised_proxy(route)

      message =~ "tunnel error" ->
        by_proxy("the proxy #{route.proxy} gives no way to the host", message)

      message =~ ~r/certificate|tls|handshake|corrupt message|InvalidContentType|peer is/i ->
        tls(message, route)

      route.proxy != nil and unreachable?(message) ->
        by_proxy("the proxy #{route.proxy} can't be reached", message)

      message =~ "lookup address" ->
        unknown_name(message, route)

      message =~ "refused" ->
        {"#{route.host} refuses the connection: #{message}",
         "nothing listens there: look at :host and its port, and whether the ingest is running" <>
           perhaps_a_proxy(route)}

      true ->
        unreachable(message, route)
    end
  end

  defp answered(status, error, route) do
    said = "the ingest answered #{status}: #{error.message}"

    case status do
      407 ->
        unauthorised_proxy(route)

      key when key in [401, 403] ->
        {said,
         "the key is not one of a project there: compare :api_key with the project's, quotes included, and :host with the ingest that it is for"}

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

  defp tls(message, route) do
    {"TLS with #{route.host} failed: #{message}",
     cond do
       message =~ ~r/UnknownIssuer|UnhandledCriticalExtension|no trust|cacertfile/i ->
         "nobody trusted here has signed the host's certificate: install the system's authorities (apt-get install ca-certificates), or name a file with the right one by :cacertfile or SSL_CERT_FILE"

       message =~ "CaUsedAsEndEntity" ->
         "the host's certificate is a self-signed one of an authority, which is no host's: have the host present a certificate that a CA has signed, and name the CA's certificate by :cacertfile"

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

  defp unauthorised_proxy(route) do
    {"the proxy #{route.proxy} asks for a name and a password (407)",
     "give them in the proxy's address: http://name:password@proxy:3128"}
  end

  defp unknown_name(message, route) do
    {"the name #{URI.parse(route.host).host} is not known to DNS: #{message}",
     "look for a mistake in :host, and whether this machine resolves names" <> perhaps_a_proxy(route)}
  end

  defp unreachable(message, route) do
    {"#{route.host} can't be reached: #{message}",
     "look at :host and its port, and whether a firewall lets this machine out" <> perhaps_a_proxy(route)}
  end

  # A network that only a proxy leads out of looks like any of these.
  defp perhaps_a_proxy(%{proxy: nil, variable: variable}) when variable != nil,
    do: "; #{variable} is set here, and is used with proxy: :environment alone"

  defp perhaps_a_proxy(_route), do: ""

  defp unreachable?(message), do: message =~ ~r/lookup address|refused|unreachable|no route/i
end
