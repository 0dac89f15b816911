defmodule BilldogEng.Collector.Page.Sample do
  @moduledoc false
  # Sends one event to the ingest over its socket, so that it meets the collector's mode like any other request.

  alias BilldogEng.Collector.JSONWriter

  @timeout 5_000

  @doc "Sends the event, and returns when the ingest has answered or its answer is late."
  @spec send(String.t(), nil | String.t()) :: :ok | {:error, String.t()}
  def send(url, key) do
    key = key || "sample"
    body = key |> body() |> JSONWriter.iodata() |> IO.iodata_to_binary()
    %URI{host: host, port: port} = URI.parse(url)

    with {:ok, socket} <- connect(host, port) do
      :gen_tcp.send(socket, [
        "POST /ingest-events HTTP/1.1\r\nhost: #{host}\r\nx-api-key: #{key}\r\nconnection: close\r\n",
        "user-agent: billdogeng-page\r\ncontent-type: application/json\r\n",
        "content-length: #{byte_size(body)}\r\n\r\n",
        body
      ])

      # Its row shows the answer.
      :gen_tcp.recv(socket, 0, @timeout)
      :gen_tcp.close(socket)
      :ok
    end
  end

  defp connect(host, port) do
    {:ok, ip} =
      host |> String.trim_leading("[") |> String.trim_trailing("]") |> to_charlist() |> :inet.parse_address()

    family = if tuple_size(ip) == 8, do: [:inet6], else: []

    with {:error, reason} <- :gen_tcp.connect(ip, port, [:binary, active: false] ++ family, @timeout),
         do: {:error, "the sample could not be sent: #{:inet.format_error(reason)}"}
  end

  defp body(key) do
    event =
      {:object,
       event_name: "sample_event",
       event_timestamp: System.system_time(:millisecond),
       properties: %{plan: "pro", revenue: 49.99, first: true, cart: %{size: 2, items: ["book", "pen"]}},
       user_id: "user-1"}

    {:object, api_key: key, events: [event]}
  end
end
