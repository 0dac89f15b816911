defmodule Mix.Tasks.Billdogeng.Collector do
  @shortdoc "Starts the ingest for development, which prints one line an event"

  @moduledoc """
  Starts `BilldogEng.Collector` alone, an ingest on this machine that prints one line an event.

      $ mix billdogeng.collector
      The collector listens on http://127.0.0.1:4632 (Ctrl-C twice ends it)
      signed_up user-1 %{"plan" => "pro"}

  An event that the real ingest refuses is marked with the reasons, and a refused request has a line with its status.

  A client sends there with `api_key: "any", host: "http://127.0.0.1:4632"`. The app isn't started.

    * `mix billdogeng.collector PORT` - another port, 0 for a free one

  A port that was asked for and is taken is an error, and so is a second collector on the default port. If another
  program has the default port, the collector takes a free one and prints the `host:` line for the app's configuration.
  """

  use Mix.Task

  alias BilldogEng.Collector
  alias BilldogEng.Collector.Probe

  @impl true
  @spec run([String.t()]) :: no_return()
  def run(argv) do
    port = port!(argv)
    Mix.Task.run("compile")
    # Else a port in use would end this process before it can say so.
    Process.flag(:trap_exit, true)
    {collector, lines} = start!(port, Collector.default_port())
    Enum.each(lines, &Mix.shell().info(&1))
    # It is linked to this process, and ends with it.
    Process.monitor(collector)
    receive do: ({:DOWN, _, _, ^collector, reason} -> Mix.raise("the collector ended: #{inspect(reason)}"))
  end

  @doc false
  # The default port is an argument for tests, of which many run at a time.
  def start!(asked, default) do
    case Collector.start_link(port: asked || default, print: true, keep: false) do
      {:ok, collector} -> {collector, [listening(collector)]}
      {:error, {:eaddrinuse, message}} -> taken!(asked, default, message)
      {:error, {_reason, message}} -> Mix.raise(message)
      {:error, %BilldogEng.Error{message: message}} -> Mix.raise(message)
    end
  end

  defp taken!(asked, default, message) do
    cond do
      Probe.collector?(asked || default) ->
        Mix.raise(
          "a collector listens on http://127.0.0.1:#{asked || default} already. Use that one, or end it; " <>
            "`mix billdogeng.collector 0` starts another one on a free port"
        )

      asked ->
        Mix.raise("#{message}. `mix billdogeng.collector 0` takes a free port")

      true ->
        {collector, lines} = start!(0, default)
        {collector, lines ++ [elsewhere(collector, default)]}
    end
  end

  defp listening(collector),
    do: "The collector listens on #{Collector.url(collector)} (Ctrl-C twice ends it)"

  defp elsewhere(collector, default) do
    """
    Port #{default} is taken by another program. In the app's configuration, for as long as this collector runs:

        host: "#{Collector.url(collector)}"
    """
  end

  defp port!([]), do: nil

  defp port!(argv) do
    with [text] <- argv, {port, ""} when port in 0..65_535 <- Integer.parse(text) do
      port
    else
      _ -> Mix.raise("takes a port from 0 to 65535, and nothing else; it was given #{Enum.join(argv, " ")}")
    end
  end
end
