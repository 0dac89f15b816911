defmodule BilldogEng.Collector.Page.Connection do
  @moduledoc false
  # One process for each connection to the page: it accepts, reads requests, and sends what the router returns.

  alias BilldogEng.Collector.{HTTP, Ingest, Response}
  alias BilldogEng.Collector.Page.{Router, Stream}

  require Logger

  @doc "Starts a process that waits for a connection, and sends `{:accepted, pid}` to the page when it has one."
  @spec start_link(:gen_tcp.socket(), pid, BilldogEng.Collector.Page.t()) :: pid
  def start_link(listener, owner, page), do: spawn_link(fn -> accept(listener, owner, page) end)

  defp accept(listener, owner, page) do
    case :gen_tcp.accept(listener) do
      {:ok, socket} ->
        send(owner, {:accepted, self()})
        serve(HTTP.new(socket), page)

      {:error, :closed} ->
        :ok

      # The peer left before it was accepted, or descriptors are short for a moment.
      {:error, _} ->
        Process.sleep(10)
        accept(listener, owner, page)
    end
  end

  defp serve(%{socket: socket} = reader, page) do
    case HTTP.read(reader, page) do
      {:ok, request, keep_alive?, reader} ->
        case route(request, page) do
          {:stream, options} ->
            Stream.run(socket, options, page)

          answer ->
            if Response.send(socket, answer, keep_alive?) == :ok and keep_alive?, do: serve(reader, page)
        end

      {:refused, {status, code, message}} ->
        Response.send(socket, Ingest.error(status, code, message), false)

      :closed ->
        :ok
    end

    :gen_tcp.close(socket)
  end

  # An error of the page must not end the collector, and its text can quote what was sent.
  defp route(request, page) do
    Router.answer(request, page)
  rescue
    error ->
      Logger.error(
        "BilldogEng.Collector: the page answered 500 to #{request.method}: #{inspect(error.__struct__)}"
      )

      Ingest.error(500, "INTERNAL", "the page failed; the collector's log names the error")
  end
end
