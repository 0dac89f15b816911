defmodule BilldogEng.Collector.Page.Guard do
  @moduledoc false
  # Decides whether a request may reach the page, once and before any routing: pure functions.
  #
  # Any web site can send requests to a loopback address. It must read no event and set no fault:
  #
  # | attack | refused because |
  # |---|---|
  # | a name of the attacker's that resolves to 127.0.0.1 (DNS rebinding) | `Host` is not one of the page's hosts |
  # | a form or `fetch` of another site or of another port | `Origin` is not the page's own |
  # | `<script>`, `<img>` and the like of another site | `Sec-Fetch-Site` names another site |

  @loopback ["127.0.0.1", "localhost", "[::1]"]

  @doc """
  Returns the decoded path and the query, or why the request is refused. `hosts` are further names of the page.

      iex> alias BilldogEng.Collector.Page.Guard
      iex> Guard.check(%{path: "/%61pi/events?name=a", headers: [{"host", "127.0.0.1:4633"}]}, [])
      {:ok, "/api/events", "name=a"}
      iex> Guard.check(%{path: "/", headers: [{"host", "evil.example:4633"}]}, [])
      {:error, 403, "the host evil.example is not one of the page's; the option :hosts allows further ones"}
  """
  @spec check(map, [String.t()]) :: {:ok, String.t(), String.t()} | {:error, pos_integer, String.t()}
  def check(%{path: target, headers: headers} = request, hosts) do
    with {:ok, authority} <- host(values(headers, "host"), hosts),
         :ok <- origin(values(headers, "origin"), authority),
         :ok <- site(request, values(headers, "sec-fetch-site"), values(headers, "sec-fetch-mode")),
         do: path(target)
  end

  defp values(headers, name), do: for({^name, value} <- headers, do: value)

  defp host([authority], hosts) do
    authority = String.downcase(authority, :ascii)
    name = Regex.replace(~r/:\d*\z/, authority, "")

    if name in @loopback or name in Enum.map(hosts, &String.downcase(&1, :ascii)),
      do: {:ok, authority},
      else:
        {:error, 403,
         "the host #{shown(name)} is not one of the page's; the option :hosts allows further ones"}
  end

  defp host(_none_or_many, _hosts), do: {:error, 400, "a request has one host header"}

  # A proxy in front of a host of the options can speak TLS.
  defp origin([], _authority), do: :ok

  defp origin([origin], authority) do
    if String.downcase(origin, :ascii) in ["http://" <> authority, "https://" <> authority],
      do: :ok,
      else: {:error, 403, "the origin #{shown(origin)} is not the page's own"}
  end

  defp origin(_many, _authority), do: {:error, 400, "a request has one origin header"}

  # A link on another site may open the page: the site cannot read it.
  defp site(_request, [], _mode), do: :ok
  defp site(_request, [site], _mode) when site in ["same-origin", "none"], do: :ok
  defp site(%{method: "GET"}, [_site], ["navigate"]), do: :ok
  defp site(_request, _site, _mode), do: {:error, 403, "the request comes from another site"}

  # Decoded once: the router sees no other form.
  defp path(target) do
    [path | query] = String.split(target, "?", parts: 2)
    path = URI.decode(path)

    if String.valid?(path) and not (path =~ ~r{[\x00-\x1f\x7f\\]|/\.\.?(/|\z)}) and
         String.starts_with?(path, "/"),
       do: {:ok, path, Enum.join(query)},
       else: {:error, 400, "the path is not one of the page"}
  rescue
    ArgumentError -> {:error, 400, "the path is not percent-encoded"}
  end

  defp shown(text) do
    if String.valid?(text) and not (text =~ ~r/[[:cntrl:]]/u),
      do: String.slice(text, 0, 100),
      else: inspect(text)
  end
end
