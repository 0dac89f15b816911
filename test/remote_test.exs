defmodule BilldogEng.RemoteTest do
  @moduledoc """
  A client on another node, of this kind or the original's: a VM of its own each.
  """

  use BilldogEng.ClientCase, async: true

  alias BilldogEng.VM

  # A server that takes the original's messages alone, and ends by any other, as the original does.
  @original """
  defmodule Original do
    use GenServer
    def init(count), do: {:ok, count}
    def handle_cast({:enqueue, _id, _name, {:with_groups, _properties, _groups}}, count), do: {:noreply, count + 1}
    def handle_cast({:enqueue, _id, _name, {:raw, _properties}}, count), do: {:noreply, count + 1}
    def handle_call(:queue_length, _from, count), do: {:reply, count, count}
    def handle_call(:flush, _from, _count), do: {:reply, :ok, 0}
    def handle_call(:shutdown, _from, _count), do: {:reply, :ok, 0}
  end

  """

  @caller """
  alias BilldogEng.Analytics
  there = {:client, String.to_atom(System.fetch_env!("THERE"))}
  true = Node.connect(elem(there, 1))
  true = Enum.all?(1..100, fn _ -> :global.sync() == :ok end)

  """

  defp node_name(name), do: "#{name}_#{System.pid()}_#{System.unique_integer([:positive])}@127.0.0.1"

  @library ["-pa", Application.app_dir(:billdogeng, "ebin")]

  defp start(name, script, paths, env) do
    VM.start(args: ["--name", name, "--cookie", "billdogeng_test"] ++ paths ++ ["-e", script], env: env)
  end

  # The result of `calls` from another node to a client that `server` starts.
  defp meet({server, paths, env}, calls) do
    there = node_name("there")
    vm = start(there, server <> ~s|IO.puts("up"); IO.gets("")|, paths, env)
    VM.await(vm, "up")
    {output, 0} = VM.ended(start(node_name("here"), @caller <> calls, @library, THERE: there))
    VM.go(vm)
    {_, 0} = VM.ended(vm)
    output
  end

  test "that is the original's is sent nothing but the original's messages" do
    server = @original <> "{:ok, _} = GenServer.start(Original, 0, name: :client)\n"

    output =
      meet({server, [], []}, """
      :ok = Analytics.capture(there, "u", "e", %{a: 1}, %{company: "acme"}, timestamp: 1)
      :ok = Analytics.identify(there, "u", %{a: 1}, set_once: %{b: 1})
      :ok = Analytics.group_identify(there, "company", "acme")
      :ok = Analytics.alias(there, "u", "v")
      :ok = Analytics.set_person_properties(there, "u", set: %{a: 1})
      exit_of = fn call -> try do call.(there) catch :exit, {reason, _} -> reason end end
      IO.inspect({exit_of.(&Analytics.purge/1), exit_of.(&Analytics.stats/1)})
      IO.inspect({Analytics.queue_length(there), Analytics.flush(there), Analytics.shutdown(there)})
      true = Enum.any?(1..3_000, fn _ -> :persistent_term.get({BilldogEng.Log.Writer, {:remote_person, elem(there, 1)}}, false) || Process.sleep(10) == nil end)
      """)

    assert output =~ "{:noproc, :noproc}\n"
    assert output =~ "{4, :ok, :ok}"
    assert output =~ "left out person properties: the client on"
    refute output =~ "[error]"
  end

  test "that is of this kind takes all there is" do
    collector = start_collector()

    server = """
    {:ok, _} = Application.ensure_all_started(:billdogeng)
    {:ok, _} = BilldogEng.Analytics.start_link(api_key: "key", host: System.fetch_env!("HOST"), name: :client)
    """

    output =
      meet(
        {server, @library, [HOST: Collector.url(collector)]},
        """
        :ok = Analytics.capture(there, "u", "e", %{a: 1})
        :ok = Analytics.set_person_properties(there, "u", set: %{a: 1})
        counted = fn -> Analytics.stats(there).person_updates.captured == 1 end
        true = Enum.any?(1..3_000, fn _ -> counted.() || Process.sleep(10) == nil end)
        :ok = Analytics.flush(there)
        :ok = Analytics.capture(there, "u", "purged")
        1 = Analytics.queue_length(there)
        :ok = Analytics.purge(there)
        IO.inspect(Analytics.stats(there).dropped)
        """
      )

    assert output =~ "%{purged: 1}"
    assert names(collector) == ["e"]
    assert Enum.any?(Collector.requests(collector), &(&1.path == "/user-properties"))
  end
end
