defmodule BilldogEng.Client.Remote do
  @moduledoc false
  # Finds a client by its pid or name. A client on another node is sent the original's messages; what these cannot
  # express is called there with `:erpc`.

  alias BilldogEng.Log.Writer
  alias BilldogEng.Terms.Budget

  @doc false
  # Returns `{:local, pid}`, `{:remote, server}` or nil.
  def find(server) do
    case whereis(server) do
      pid when is_pid(pid) and node(pid) == node() -> {:local, pid}
      nil -> nil
      remote -> {:remote, remote}
    end
  end

  defp whereis(pid) when is_pid(pid), do: pid
  defp whereis({name, node}) when is_atom(name) and node == node(), do: Process.whereis(name)
  defp whereis(server), do: GenServer.whereis(server)

  @doc false
  # Runs `local` with the pid of a client on this node. Calls the function on the client's node otherwise. Exits as
  # `GenServer.call/3` does if there is no such client.
  def run(server, {module, function, args}, local) do
    case find(server) do
      {:local, pid} -> with :no_client <- local.(pid), do: no_client(server, function)
      {:remote, remote} -> call(remote, module, function, args)
      nil -> no_client(server, function)
    end
  end

  @doc false
  # Calls a function on the client's node, with the client as its first argument.
  def call(remote, module, function, args) do
    {client, node} = if is_pid(remote), do: {remote, node(remote)}, else: remote
    :erpc.call(node, module, function, [client | args])
  catch
    _, _ -> no_client(remote, function)
  end

  defp no_client(server, request), do: exit({:noproc, {GenServer, :call, [server, request, :infinity]}})

  @doc false
  # Sends an event as the original does.
  def enqueue(server, {distinct_id, name, properties, _groups, _timestamp}, :raw),
    do: cast(server, {:enqueue, distinct_id, name, {:raw, properties}})

  def enqueue(server, {distinct_id, name, properties, groups, _timestamp}, :with_groups),
    do: cast(server, {:enqueue, distinct_id, name, {:with_groups, properties, groups}})

  @doc false
  def cast(server, message) do
    if copyable?(message), do: GenServer.cast(server, message), else: :ok
  end

  @doc false
  # A message has a copy of each shared part of a term: it could take all memory of the VM.
  def copyable?(term) do
    if Budget.walk_copied(term, Budget.most()) >= 0 do
      true
    else
      Writer.once(:large_message, {:message_too_large, Budget.most()})
      false
    end
  end
end
