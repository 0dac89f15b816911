defmodule BilldogEng.Collector.Options do
  @moduledoc false
  # Checks the options of `BilldogEng.Collector.start_link/1`.

  @expected %{
    port: "a port from 0 to 65535",
    ip: "an address as a tuple, such as {127, 0, 0, 1}",
    api_key: "a string or nil",
    print: "true or false",
    keep: "true or false",
    idle_timeout: "milliseconds as a positive integer",
    read_timeout: "milliseconds as a positive integer",
    page: "true, false, a port, or a keyword list with any of :port, :ip, :hosts (strings) and :client"
  }

  # The most that a process can wait for.
  @most_ms 0xFFFFFFFF

  @doc "Raises `ArgumentError` for an unknown option and for a wrong value."
  @spec check!(keyword) :: :ok
  def check!(opts) do
    unless Keyword.keyword?(opts) do
      raise ArgumentError, "BilldogEng.Collector.start_link/1 expects a keyword list, got: #{inspect(opts)}"
    end

    Enum.each(opts, fn {option, value} ->
      unless known?(option) do
        raise ArgumentError,
              "unknown option #{inspect(option)}, BilldogEng.Collector.start_link/1 expects one of: " <>
                Enum.map_join([:name | Enum.sort(Map.keys(@expected))], ", ", &inspect/1)
      end

      unless valid?(option, value) do
        raise ArgumentError,
              "invalid value for #{inspect(option)}: expected #{@expected[option]}#{got(option, value)}"
      end
    end)
  end

  defp known?(option), do: option == :name or is_map_key(@expected, option)

  defp valid?(:port, port), do: port in 0..65_535
  defp valid?(:ip, ip), do: match?({:ok, _}, :inet.parse_address(address(ip)))
  defp valid?(:api_key, key), do: is_binary(key) or key == nil
  defp valid?(option, value) when option in [:print, :keep], do: is_boolean(value)
  defp valid?(option, value) when option in [:idle_timeout, :read_timeout], do: value in 1..@most_ms
  defp valid?(:page, page) when is_boolean(page), do: true
  defp valid?(:page, port) when is_integer(port), do: valid?(:port, port)
  defp valid?(:page, page), do: Keyword.keyword?(page) and Enum.all?(page, &page?/1)
  # GenServer checks it.
  defp valid?(:name, _name), do: true

  defp page?({option, value}) when option in [:port, :ip], do: valid?(option, value)
  defp page?({:hosts, hosts}), do: is_list(hosts) and Enum.all?(hosts, &is_binary/1)
  defp page?({:client, _client}), do: true
  defp page?(_), do: false

  # It gives an error for what is not an address.
  defp address(ip), do: with({:error, _} <- :inet.ntoa(ip), do: ~c"")

  # A key may have been put in charlist quotes.
  defp got(:api_key, _value), do: ""
  defp got(_option, value), do: ", got: #{inspect(value)}"
end
