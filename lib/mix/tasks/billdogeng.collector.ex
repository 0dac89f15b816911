defmodule Mix.Tasks.Billdogeng.Collector do
  @shortdoc "Starts the ingest for development, which prints one line an event"

  @moduledoc """
  Starts `BilldogEng.Collector` alone, an ingest on this machine that prints one line an event.

      $ mix billdogeng.collector
      The collector listens on http://127.0.0.1:4318 (Ctrl-C twice ends it)
      signed_up user-1 %{"plan" => "pro"}

  A client sends there with `api_key: "any", host: "http://127.0.0.1:4318"`. The app isn't started.

    * `mix billdogeng.collector PORT` - another port, 0 for a free one
  """

  use Mix.Task

  alias BilldogEng.Collector

  @impl true
  def run(argv) do
    port = port!(argv)
    Mix.Task.run("compile")
    # Else a port in use would end this process before it can say so.
    Process.flag(:trap_exit, true)

    case Collector.start_link(port: port, print: true, keep: false) do
      {:ok, collector} ->
        Mix.shell().info("The collector listens on #{Collector.url(collector)} (Ctrl-C twice ends it)")
        # It is linked to this process, and ends with it.
        Process.sleep(:infinity)

      {:error, reason} ->
        Mix.raise("port #{port}: #{:inet.format_error(reason)}")
    end
  end

  defp port!([]), do: 4318

  defp port!(argv) do
    with [text] <- argv, {port, ""} when port in 0..65_535 <- Integer.parse(text) do
      port
    else
      _ -> Mix.raise("takes a port from 0 to 65535, and nothing else; it was given #{Enum.join(argv, " ")}")
    end
  end
end
