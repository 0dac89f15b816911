defmodule BilldogEng.VM do
  @moduledoc """
  A VM of its own that runs a script, line by line in step with the test: what it prints arrives here, and
  what `IO.gets/1` waits for is sent from here.
  """

  # Ms without a line. Long, for the machine may be busy.
  @patience 120_000

  @doc """
  Starts one. `:script` is run with this library on its path; or `:command` and `:args` are. `:env` is its
  environment, `:netns` the network namespace that it runs in.
  """
  def start(opts) do
    paths = ["-pa", Application.app_dir(:billdogeng, "ebin")]
    command = Keyword.get(opts, :command, System.find_executable("elixir"))
    args = Keyword.get(opts, :args, paths ++ ["-e", opts[:script] || ""])
    {command, args} = within(opts[:netns], command, args)
    env = for {name, value} <- Keyword.get(opts, :env, []), do: {~c"#{name}", ~c"#{value}"}

    port =
      Port.open({:spawn_executable, command}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        line: 10_000,
        args: args,
        env: env
      ])

    # One that has ended already has none: await/3 and ended/2 show its output.
    pid = with {:os_pid, pid} <- Port.info(port, :os_pid), do: pid
    %{port: port, pid: pid}
  end

  @doc "Waits until it prints this line; answers what came before."
  def await(%{port: port} = vm, line, before \\ []) do
    receive do
      {^port, {:data, {:eol, ^line}}} -> Enum.reverse(before)
      {^port, {:data, {_, other}}} -> await(vm, line, [other | before])
      {^port, {:exit_status, status}} -> gone(line, status, before)
    after
      @patience -> gone(line, "nothing", before)
    end
  end

  @doc "Lets it go on."
  def go(%{port: port}), do: Port.command(port, "\n")

  @doc "Waits for its end; answers what it printed, and its status."
  def ended(%{port: port} = vm, before \\ []) do
    receive do
      {^port, {:data, {_, line}}} -> ended(vm, [line | before])
      {^port, {:exit_status, status}} -> {before |> Enum.reverse() |> Enum.join("\n"), status}
    after
      @patience -> gone("the end", "nothing", before)
    end
  end

  defp gone(line, what, before) do
    output = before |> Enum.reverse() |> Enum.join("\n")
    ExUnit.Assertions.flunk("waited for #{line}, there came #{what}, after:\n#{output}")
  end

  defp within(nil, command, args), do: {command, args}

  defp within(netns, command, args),
    do: {System.find_executable("ip"), ["netns", "exec", netns, command] ++ args}
end
