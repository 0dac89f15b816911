defmodule BilldogEng.UpgradeTest do
  # Code of the library that is replaced, or has no native library, or runs on another node: a VM of its own each.
  use BilldogEng.ClientCase, async: true

  @moduletag :slow

  alias BilldogEng.VM

  @moduletag :tmp_dir

  defp ebin, do: Application.app_dir(:billdogeng, "ebin")

  defp run(script, paths \\ nil) do
    paths = paths || ["-pa", ebin()]
    [args: paths ++ ["-e", script]] |> VM.start() |> VM.ended()
  end

  test "a supervisor outlives two upgrades of the library, restarts its client, and shows no key" do
    script = """
    {:ok, _} = Application.ensure_all_started(:billdogeng)

    defmodule Shop do
      use BilldogEng, otp_app: :shop
    end

    {:ok, supervisor} =
      Supervisor.start_link(
        [{Shop, api_key: "s3cret-key", host: "#{nobody()}"}, {BilldogEng.Analytics, api_key: "s3cret-key", host: "#{nobody()}"}],
        strategy: :one_for_one
      )

    {:ok, modules} = :application.get_key(:billdogeng, :modules)
    loaded = for module <- modules, module != BilldogEng.Client.Native, :code.is_loaded(module) != false, do: {module, :code.which(module)}

    for _ <- 1..2, {module, path} <- loaded do
      # Other code each time: the same functions would be those of the new code, too.
      {:ok, {_, [abstract_code: {_, forms}]}} = :beam_lib.chunks(path, [:abstract_code])
      name = String.to_atom("upgrade_\#{System.unique_integer([:positive])}")
      {eof, forms} = Enum.split_with(forms, &match?({:eof, _}, &1))
      added = [{:function, 1, name, 0, [{:clause, 1, [], [], [{:fun, 1, {:clauses, [{:clause, 1, [], [], [{:atom, 1, name}]}]}}]}]}]
      forms = Enum.flat_map(forms, fn
        {:attribute, line, :export, list} -> [{:attribute, line, :export, [{name, 0} | list]}]
        form -> [form]
      end)
      {:ok, ^module, binary} = :compile.forms(forms ++ added ++ eof, [])
      :code.purge(module)
      {:module, ^module} = :code.load_binary(module, ~c"upgraded", binary)
    end

    for {module, _} <- loaded, do: :code.purge(module)
    true = Process.alive?(supervisor)

    for {id, pid, _, _} <- Supervisor.which_children(supervisor) do
      ref = Process.monitor(pid)
      Process.exit(pid, :kill)
      receive do: ({:DOWN, ^ref, _, _, _} -> :ok)
      {^id, restarted, _, _} = List.keyfind(Supervisor.which_children(supervisor), id, 0)
      true = is_pid(restarted) and restarted != pid
      :ok = BilldogEng.Analytics.capture(restarted, "u", "e")
      1 = BilldogEng.Analytics.queue_length(restarted)
      {:ok, spec} = :supervisor.get_childspec(supervisor, id)
      IO.inspect(spec)
      :io.format("~p~n", [spec])
    end

    IO.puts("outlived")
    System.halt(0)
    """

    assert {output, 0} = run(script)
    assert output =~ "outlived"
    refute output =~ "s3cret-key"
  end

  @without """
  alias BilldogEng.Analytics
  {:ok, _} = Application.ensure_all_started(:billdogeng)
  Process.flag(:trap_exit, true)
  :ok = Analytics.capture(self(), "u", "e", %{a: {1, self()}})
  :ok = Analytics.identify(Some.Client, "u", %{a: 1})
  :ok = Analytics.set_person_properties(self(), "u", set: %{a: 1})
  :ok = Analytics.capture_exception(self(), "u", %RuntimeError{message: "no"}, [])

  for mode <- [:live, :test] do
    {:error, error} = Analytics.start_link(mode: mode, api_key: "s3cret-key", host: "http://127.0.0.1:9")
    IO.puts("\#{mode}: \#{Exception.message(error)}")
  end

  {:ok, client} = Analytics.start_link(mode: :disabled, before_send: & &1)
  :ok = Analytics.capture(client, "u", "e", %{a: self()})
  :ok = Analytics.set_person_properties(client, "u", set: %{a: 1})
  :ok = Analytics.flush(client)
  0 = Analytics.queue_length(client)
  :ok = Analytics.purge(client)
  %{mode: :disabled, queued: 0, person_updates: %{queued: 0}} = Analytics.stats(client)
  :ok = Analytics.shutdown(client)
  :ok = GenServer.stop(client)
  :ok = Application.stop(:billdogeng)
  IO.puts("fine")
  """

  defp without(output) do
    assert output =~ "fine"

    for mode <- [:live, :test],
        do: assert(output =~ ~r/#{mode}: the native library can't be loaded: .+: build it anew/)

    assert output =~ "in an escript"
    refute output =~ "s3cret-key"
  end

  test "without a priv directory the app boots, captures return :ok and a start returns the reason", %{
    tmp_dir: dir
  } do
    File.cp_r!(ebin(), Path.join(dir, "code"))
    assert {output, 0} = run(@without <> "System.halt(0)", ["-pa", Path.join(dir, "code")])
    without(output)
  end

  test "in an escript the app boots, captures return :ok and a start returns the reason", %{tmp_dir: dir} do
    [{_, main}] =
      Code.compile_string("""
      defmodule BilldogEng.UpgradeTest.Main do
        def main(_args) do
          #{@without}
        end
      end
      """)

    beams =
      for app <- [:elixir, :logger, :billdogeng],
          path <- Path.wildcard(Path.join(Application.app_dir(app, "ebin"), "*")),
          do: {~c"#{app}/ebin/#{Path.basename(path)}", File.read!(path)}

    files = [{~c"main/ebin/Elixir.BilldogEng.UpgradeTest.Main.beam", main} | beams]
    # An escript calls a module without a dot in its name: this one starts Elixir, and then the other.
    {:ok, :start, start} =
      :compile.forms([
        {:attribute, 1, :module, :start},
        {:attribute, 1, :export, [main: 1]},
        {:function, 1, :main, 1,
         [
           {:clause, 1, [{:var, 1, :_}], [],
            [
              {:call, 1, {:remote, 1, {:atom, 1, :application}, {:atom, 1, :ensure_all_started}},
               [{:atom, 1, :elixir}]},
              {:call, 1, {:remote, 1, {:atom, 1, BilldogEng.UpgradeTest.Main}, {:atom, 1, :main}}, [{nil, 1}]}
            ]}
         ]}
      ])

    escript = Path.join(dir, "shop")
    files = [{~c"start.beam", start} | files]

    :ok =
      :escript.create(~c"#{escript}", [
        :shebang,
        {:emu_args, ~c"-escript main start +fnu"},
        {:archive, files, []}
      ])

    command = System.find_executable("escript")
    assert {output, 0} = [command: command, args: [escript]] |> VM.start() |> VM.ended()
    without(output)
  end

  test "a crash of a process whose group leader is on another node is captured on its own node alone" do
    handler = """
    {:ok, client} =
      BilldogEng.Analytics.start_link(api_key: "key", host: "#{nobody()}", name: :client, shutdown_timeout: 0)

    :ok = :logger.add_handler(:billdogeng, BilldogEng.LoggerHandler, %{config: %{client: client}})
    """

    unique = "#{System.pid()}_#{System.unique_integer([:positive])}@127.0.0.1"
    args = &["--name", "#{&1}_#{unique}", "--cookie", "billdogeng_test", "-pa", ebin(), "-e", handler <> &2]
    there = VM.start(args: args.("there", ~s|IO.puts("up"); IO.gets("")|))
    VM.await(there, "up")

    script = """
    there = :"there_#{unique}"
    true = Node.connect(there)
    crash = fn -> receive(do: (:go -> raise("boom"))) end
    {:ok, task} = :erpc.call(there, Task, :start, [crash])
    bare = :erpc.call(there, :erlang, :spawn, [crash])

    for pid <- [task, bare] do
      ref = Process.monitor(pid)
      send(pid, :go)
      receive do: ({:DOWN, ^ref, _, _, _} -> :ok)
    end

    captured = fn node -> :erpc.call(node, BilldogEng.LoggerHandler, :stats, []).captured end

    # The report of a crash there comes by a process here, before later messages.
    wait = fn wait, left -> if captured.(there) < 2 and left > 0, do: (Process.sleep(10); wait.(wait, left - 1)) end
    wait.(wait, 1_000)
    :erpc.call(there, :sys, :get_state, [:logger_proxy])
    :sys.get_state(:logger_proxy)
    IO.inspect({captured.(there), captured.(node())}, label: "captured")
    System.halt(0)
    """

    {output, _} = [args: args.("here", script)] |> VM.start() |> VM.ended()
    VM.go(there)
    VM.ended(there)
    assert output =~ "captured: {2, 0}"
  end

  test "what is captured while the VM stops, to a client that has ended, is counted as stopped" do
    script = """
    alias BilldogEng.Analytics
    alias BilldogEng.Client.Native
    {:ok, client} = Analytics.start_link(api_key: "key", host: "#{nobody()}", shutdown_timeout: 200)
    :ok = Analytics.capture(client, "u", "before")
    :ok = Analytics.set_person_properties(client, "u", set: %{a: 1})
    # As the library's application has it done when the VM stops.
    Native.drain_all()
    wait = fn wait -> if Native.draining() > 0, do: (Process.sleep(10); wait.(wait)) end
    wait.(wait)
    :ok = Analytics.capture(client, "u", "late", %{a: self()})
    :ok = Analytics.set_person_properties(client, "u", set: %{a: 2})
    {:error, %{code: "ENDED"}} = Analytics.flush(client)
    0 = Analytics.queue_length(client)
    %{captured: 2, queued: 0, dropped: %{stopped: 2}, person_updates: updates} = Analytics.stats(client)
    %{captured: 2, queued: 0, dropped: %{stopped: 2}} = updates
    IO.puts("counted")
    System.halt(0)
    """

    assert {output, 0} = run(script)
    assert output =~ "counted"
  end

  test "a person update while the VM stops is counted as stopped, also the first one of a client" do
    script = """
    alias BilldogEng.Analytics
    alias BilldogEng.Client.Native
    {:ok, client} = Analytics.start_link(api_key: "key", host: "#{nobody()}", shutdown_timeout: 0)
    Native.drain_all()
    wait = fn wait -> if Native.draining() > 0, do: (Process.sleep(10); wait.(wait)) end
    wait.(wait)
    %{person_updates: %{captured: 0}} = Analytics.stats(client)
    :ok = Analytics.set_person_properties(client, "u", set: %{a: 1})
    :ok = Analytics.set_person_properties(client, "u", set: %{a: self()})
    :ok = Analytics.set_person_properties(client, "u", set: %{a: String.duplicate("a", 2_000_000)})
    %{captured: 0, person_updates: updates} = Analytics.stats(client)
    %{captured: 3, queued: 0, dropped: %{stopped: 2, too_large: 1}, state: :idle} = updates
    0 = Native.draining()
    IO.puts("counted")
    System.halt(0)
    """

    assert {output, 0} = run(script)
    assert output =~ "counted"
  end
end
