# The code that one capture runs: instructions, and the cache lines and pages that they lie in. After an idle time each of
# these lines is a wait for memory. gdb (https://sourceware.org/gdb/) steps through a capture of this VM.
#
#     bin/bench --only footprint
#     bin/bench --only footprint --spool
#
# On x86-64. It takes the right to trace this process: as root, or with kernel.yama.ptrace_scope=0.
Code.require_file("support.ex", __DIR__)

defmodule Bench.Footprint do
  alias BilldogEng.Analytics

  @library "native/billdogeng_nif.so"
  # The functions that the VM calls for a capture.
  @entry ~r/^([0-9a-f]+) t \S*billdogeng_nif\S*event\S*INVENTORY\S*raw/m

  def main(argv) do
    {opts, []} = OptionParser.parse!(argv, strict: [spool: :boolean])

    case Enum.reject(["gdb", "nm"], &System.find_executable/1) do
      [] -> measure(opts[:spool] || false)
      missing -> IO.puts(:stderr, "left out: #{Enum.join(missing, " and ")} not installed")
    end
  end

  defp measure(spool?) do
    Logger.configure(level: :error)
    folder = Path.join(System.tmp_dir!(), "billdogeng_bench_#{System.pid()}")
    opts = if spool?, do: [spool_dir: folder], else: []

    # A port where nothing listens: no thread of the client does anything in between.
    {:ok, client} =
      Analytics.start_link(
        [
          api_key: "key",
          host: "http://127.0.0.1:9",
          flush_at: :infinity,
          max_queue_size: :infinity,
          shutdown_timeout: 0
        ] ++ opts
      )

    caller = spawn_link(fn -> capture(client, Bench.Events.eight(40)) end)

    env = [{"FOOTPRINT_PID", System.pid()}, {"FOOTPRINT_ENTRIES", Enum.join(entries(), " ")}]
    # Into a file: this VM, which stands still, would not empty a pipe.
    gdb = "exec gdb -q -batch -p #{System.pid()} -x #{Path.join(__DIR__, "footprint.py")} >#{folder}.log 2>&1"
    System.cmd("sh", ["-c", gdb], env: env)
    output = File.read!(folder <> ".log")
    tables = for line <- String.split(output, "\n"), String.starts_with?(line, "|") or line == "", do: line
    IO.puts(if Enum.any?(tables, &(&1 != "")), do: tables |> Enum.dedup() |> Enum.join("\n"), else: output)

    Process.unlink(caller)
    Process.exit(caller, :kill)
    GenServer.stop(client)
    for path <- [folder, folder <> ".log"], do: File.rm_rf!(path)
  end

  defp capture(client, events) do
    for {id, name, properties} <- events, do: Analytics.capture(client, id, name, properties)
    Process.sleep(1)
    capture(client, events)
  end

  defp entries do
    {symbols, 0} = System.cmd("nm", [Path.join(:code.priv_dir(:billdogeng), @library)])
    for [_, address] <- Regex.scan(@entry, symbols), do: address
  end
end

Bench.Footprint.main(System.argv())
