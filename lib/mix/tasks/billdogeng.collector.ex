defmodule Mix.Tasks.Billdogeng.Collector do
  @shortdoc "Starts the ingest for development, with a page that shows what arrives"

  @moduledoc """
  Starts `BilldogEng.Collector` alone, an ingest on this machine that prints one line an event and serves a web page.

      $ mix billdogeng.collector
      The collector listens on http://127.0.0.1:4632 (Ctrl-C twice ends it)
      See the events on http://127.0.0.1:4633
      signed_up user-1 %{"plan" => "pro"}

  An event that the real ingest refuses is marked with the reasons, and a refused request has a line with its status.

  A client sends there with `api_key: "any", host: "http://127.0.0.1:4632"`. The app isn't started.

    * `mix billdogeng.collector PORT` - another port of the ingest, 0 for a free one
    * `--page PORT` - another port of the page, 0 for a free one
    * `--no-page` - no page
    * `--ip ADDRESS` - listens on another address than 127.0.0.1, also for the page
    * `--page-host NAME` - a further name by which browsers may reach the page; can be repeated

  A port that was asked for and is taken is an error, and so is a second collector on the default port. If another
  program has a default port, the collector takes a free one; for the ingest it prints the `host:` line for the app's
  configuration.
  """

  use Mix.Task

  alias BilldogEng.Collector
  alias BilldogEng.Collector.Probe

  @impl true
  @spec run([String.t()]) :: no_return()
  def run(argv) do
    {port, options} = options!(argv)
    Mix.Task.run("compile")
    # Otherwise a port in use would end this process before its message.
    Process.flag(:trap_exit, true)
    {collector, lines} = start!(port, options, {Collector.default_port(), Collector.default_page_port()})
    Enum.each(lines, &Mix.shell().info(&1))
    # It is linked to this process, and ends with it.
    Process.monitor(collector)
    receive do: ({:DOWN, _, _, ^collector, reason} -> Mix.raise("the collector ended: #{inspect(reason)}"))
  end

  @doc false
  # The default ports are an argument for tests, of which many run at a time.
  def start!(asked, options, {default, default_page} = defaults) do
    page = options |> Keyword.get(:page) |> page(default_page)

    case Collector.start_link(
           [port: asked || default, print: true, keep: false, page: page] ++ Keyword.get(options, :ip, [])
         ) do
      {:ok, collector} -> {collector, [listening(collector) | page_line(collector)]}
      {:error, {:eaddrinuse, message}} -> taken!(asked, options, defaults, message)
      {:error, {:page_eaddrinuse, message}} -> page_taken!(asked, options, defaults, message)
      {:error, {_reason, message}} -> Mix.raise(message)
      {:error, %BilldogEng.Error{message: message}} -> Mix.raise(message)
    end
  end

  defp page(nil, default), do: [port: default]
  defp page(page, default), do: if(page, do: Keyword.put_new(page, :port, default), else: false)

  defp taken!(asked, options, {default, _} = defaults, message) do
    port = asked || default

    case Probe.collector(port) do
      {:ok, page} ->
        Mix.raise(
          "a collector listens on http://127.0.0.1:#{port} already#{if page, do: ", and its page is #{page}"}. Use that " <>
            "one, or end it; `mix billdogeng.collector 0 --page 0` starts another one on free ports"
        )

      :error when asked != nil ->
        Mix.raise("#{message}. `mix billdogeng.collector 0` takes a free port")

      :error ->
        {collector, lines} = start!(0, options, defaults)
        {collector, lines ++ [elsewhere(collector, default)]}
    end
  end

  # Also of a collector that runs with another port of its ingest.
  defp page_taken!(asked, options, defaults, message) do
    if options[:page][:port],
      do: Mix.raise("#{message}. `--page 0` takes a free port"),
      else: start!(asked, Keyword.update!(options, :page, &Keyword.put(&1, :port, 0)), defaults)
  end

  defp listening(collector),
    do: "The collector listens on #{Collector.url(collector)} (Ctrl-C twice ends it)"

  defp page_line(collector) do
    page = Collector.page_url(collector)
    if page, do: ["See the events on #{page}"], else: []
  end

  defp elsewhere(collector, default) do
    """
    Port #{default} is taken by another program. In the app's configuration, for as long as this collector runs:

        host: "#{Collector.url(collector)}"
    """
  end

  @switches [page: :string, ip: :string, page_host: :keep]

  # Returns the port that was asked for or nil, and the options of start!/3.
  defp options!(argv) do
    {page?, argv} = {"--no-page" not in argv, argv -- ["--no-page"]}

    case OptionParser.parse(argv, strict: @switches) do
      {switches, ports, []} when length(ports) < 2 ->
        page = if switches[:page], do: [port: port!(switches[:page])], else: []
        page = page ++ [hosts: Keyword.get_values(switches, :page_host)]
        ip = if switches[:ip], do: [ip: ip!(switches[:ip])], else: []
        {ports |> List.first() |> port!(), [page: page? && page, ip: ip]}

      {_, _, _} ->
        Mix.raise(
          "takes a port from 0 to 65535, --page, --no-page, --ip and --page-host; it was given #{Enum.join(argv, " ")}"
        )
    end
  end

  defp port!(nil), do: nil

  defp port!(text) do
    case Integer.parse(text) do
      {port, ""} when port in 0..65_535 -> port
      _ -> Mix.raise("takes a port from 0 to 65535, got: #{text}")
    end
  end

  defp ip!(text) do
    case text |> to_charlist() |> :inet.parse_strict_address() do
      {:ok, ip} -> ip
      _ -> Mix.raise("--ip takes an address such as 0.0.0.0, got: #{text}")
    end
  end
end
