defmodule BilldogEng.Client.Address do
  @moduledoc false
  # Checks and shows the addresses of ingests and proxies. Userinfo, queries and fragments can contain secrets, so they
  # are never shown.

  # Returns nil, or the reason why no request can be made to `address`. The reason does not quote the address.
  def problem(address) when is_binary(address) do
    cond do
      not String.valid?(address) -> "it is not UTF-8"
      address == "" -> "it is empty"
      address =~ ~r/[\s[:cntrl:]\\]/u -> "it has a space, a control character or a backslash"
      not (address =~ ~r{\Ahttps?://}i) -> "it does not begin with http:// or https://"
      address =~ "#" -> "it has a fragment (#)"
      address =~ "?" -> "it has a query (?)"
      true -> address |> authority() |> authority_problem()
    end
  end

  def problem(_address), do: "it is not a string"

  defp authority(address) do
    [_scheme, rest] = String.split(address, "://", parts: 2)
    rest |> String.split("/", parts: 2) |> hd() |> String.split("@") |> List.last()
  end

  defp authority_problem("[" <> rest) do
    case String.split(rest, "]", parts: 2) do
      [host, port] -> if(host =~ "%", do: zone(), else: ipv6_problem(host) || port_problem(port))
      [_unclosed] -> "its IPv6 address has no closing bracket"
    end
  end

  defp authority_problem(authority) do
    case String.split(authority, ":", parts: 2) do
      ["" | _] -> "it has no host"
      [host] -> host_problem(host)
      [host, port] -> host_problem(host) || port_problem(":" <> port)
    end
  end

  defp ipv6_problem(host) do
    case :inet.parse_ipv6strict_address(String.to_charlist(host)) do
      {:ok, _} -> nil
      {:error, _} -> "its host is not an IPv6 address"
    end
  end

  defp host_problem(host) do
    cond do
      host =~ ~r/[<>^|"`{}%\[\]]/ -> "its host has a character that no host name has"
      host =~ ~r/\A\.|\.\./ -> "its host name has an empty part"
      true -> nil
    end
  end

  defp port_problem(""), do: nil

  defp port_problem(port) do
    with true <- port =~ ~r/\A:[0-9]{1,5}\z/,
         true <- String.to_integer(String.trim_leading(port, ":")) in 1..65_535 do
      nil
    else
      _ -> "its port is not a number from 1 to 65535"
    end
  end

  defp zone, do: "its IPv6 address has a zone ID (%)"

  # Returns the address as a log or an error may show it.
  def shown(address) do
    address |> String.replace(~r{\A([a-z]+://)?.*@}si, "\\1") |> String.replace(~r/[?#].*\z/s, "")
  end

  # Returns whether the address contains a user name or a password.
  def secret?(address), do: is_binary(address) and address =~ "@"
end
