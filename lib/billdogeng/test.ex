defmodule BilldogEng.Test do
  @moduledoc """
  Asserts about the events that an app captures in its tests.

      # config/test.exs
      config :my_app, MyApp.Analytics, mode: :test

      defmodule MyApp.ShopTest do
        use ExUnit.Case, async: true
        use BilldogEng.Test

        test "an order is captured with its revenue" do
          MyApp.Shop.order("user-1", 49.99)
          assert_captured "order_completed", %{"user_id" => "user-1", "properties" => %{"revenue" => 49.99}}
        end
      end

  A client with `mode: :test` encodes events like any client, hooks included, and keeps them in memory. The events are those
  that an ingest would read: maps of `"event_name"`, `"event_timestamp"` (ms), `"properties"` and `"user_id"`, with string
  keys. The client has no thread and no socket. `flush/2` returns `:ok`, and `stats/1` counts the events that a test owns as
  delivered.

  Put `use BilldogEng.Test` after `use ExUnit.Case`, or in the `using` of a case template. It makes each test an owner of
  events, and imports `assert_captured/3`, `refute_captured/3`, `captured/1` and `set_shared/1`.

  ## Owners

  Tests can run at the same time, with one client in the app. A test owns the events of

    * its own process, and of tasks and processes that it starts, at any depth. These have the test in `$callers` or
      `$ancestors`, as LiveViews and Phoenix's tests do. Processes of a plain `spawn` count while the processes between them
      and the test are alive
    * processes of `allow/3`
    * all other processes, with `set_shared/1`

  An event of any other process, such as a server of the app, has no owner. It is dropped and counted (`:unowned` in the
  `dropped` of `stats/1`). The events of a test are deleted when it ends.
  """

  alias BilldogEng.Client.Native
  alias BilldogEng.Test.{Refusal, Store}

  # Of ExUnit, which runs only where tests do.
  @compile {:no_warn_undefined, ExUnit.AssertionError}

  @typedoc "An event, as it is on the wire."
  @type event :: %{optional(String.t()) => term()}

  @doc false
  defmacro __using__(_opts) do
    # Not allow/3: Mox and others have one of that name.
    imported = for name <- [:assert_captured, :refute_captured], arity <- 1..3, do: {name, arity}

    quote do
      import BilldogEng.Test, only: unquote([captured: 0, captured: 1, set_shared: 1] ++ imported)
      setup context, do: BilldogEng.Test.own(context)
    end
  end

  # ── owners ──

  @doc group: "Processes"
  @doc """
  Makes the calling process an owner of events, until it ends. `use BilldogEng.Test` does this in each test's
  setup; it takes ExUnit's context, and ignores it.

      iex> BilldogEng.Test.own()
      :ok
  """
  @spec own(term()) :: :ok
  def own(_context \\ %{}), do: Store.own(self())

  @doc group: "Processes"
  @doc """
  Makes `owner` the owner of the events that `process` captures with `client`. `process` is a pid or a name. For a process
  that does not run yet, it is a function without arguments that returns a pid, a list of pids or nil. The function is called
  in the capturing process, for each event without another owner.

  Raises `ArgumentError` if another test has the process, and if `client` is no client with `mode: :test`.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(mode: :test)
      iex> {:ok, server} = Agent.start(fn -> nil end)
      iex> BilldogEng.Test.allow(client, self(), server)
      :ok
      iex> Agent.get(server, fn _ -> BilldogEng.Analytics.capture(client, "user-1", "signed_up") end)
      iex> [%{"event_name" => "signed_up"}] = BilldogEng.Test.captured(client)
  """
  @spec allow(BilldogEng.Analytics.server(), pid(), GenServer.server() | fun()) :: :ok
  def allow(client, owner, process) when is_pid(owner) do
    client = testing!(client)
    process = if is_function(process, 0), do: process, else: process!(process)

    case Store.allow(client, owner, process) do
      :ok ->
        :ok

      {:error, other} ->
        raise ArgumentError,
              "the events of #{inspect(process)} can't be #{inspect(owner)}'s: they are #{inspect(other)}'s already"
    end
  end

  @doc group: "Processes"
  @doc """
  Makes the calling test the owner of all events without an owner, until it ends: those of all clients for ExUnit's context,
  as in `setup :set_shared`, or those of one client.

  Raises `ArgumentError` in a test with `async: true`, because the test would own events of other tests' processes.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(mode: :test)
      iex> BilldogEng.Test.set_shared(client)
      :ok
  """
  @spec set_shared(map() | BilldogEng.Analytics.server()) :: :ok
  def set_shared(%{async: true}) do
    raise ArgumentError,
          "a test with async: true can't share: it would be given the events of others. " <>
            "Set async: false, or name the processes with BilldogEng.Test.allow/3"
  end

  def set_shared(context) when is_map(context) and not is_struct(context), do: Store.share(:all, self())
  def set_shared(client), do: client |> testing!() |> Store.share(self())

  # ── what ──

  @doc group: "Events"
  @doc """
  The events that the calling test has captured so far, the oldest first: by one client, or by all; or those of a
  name, a string.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(mode: :test)
      iex> BilldogEng.Test.own()
      iex> BilldogEng.Analytics.capture(client, "user-1", "signed_up", plan: :pro)
      iex> [event] = BilldogEng.Test.captured(client)
      iex> Map.delete(event, "event_timestamp")
      %{"event_name" => "signed_up", "properties" => %{"plan" => "pro"}, "user_id" => "user-1"}
      iex> BilldogEng.Test.captured("signed_up") == [event]
      true
  """
  @spec captured(BilldogEng.Analytics.server() | :all | String.t()) :: [event()]
  def captured(client_or_name \\ :all)

  def captured(name) when is_binary(name) do
    for %{"event_name" => ^name} = event <- captured(), do: event
  end

  def captured(client) do
    client = client!(client)
    client |> owner!() |> Store.events(client)
  end

  @doc group: "Asserts"
  @doc """
  Asserts that an event of that name, which matches the pattern, has been captured or is so in time, and answers the
  first such.

  The pattern is one of `=`, as in `assert_receive/3`: of maps it names a part, pins and guards work, and its
  variables are bound. `opts`:

    * `:client` - the client that captured it; any, where it is not given
    * `:timeout` - ms to wait, ExUnit's `assert_receive_timeout`

  A failure prints the test's events. It fails as well where the test has captured an event that an ingest refuses: one
  whose name is empty or no string, without a distinct ID, or with properties that are no map.

      iex> import BilldogEng.Test
      iex> {:ok, client} = BilldogEng.Analytics.start_link(mode: :test)
      iex> own()
      iex> BilldogEng.Analytics.capture(client, "user-1", "order_completed", %{revenue: 49.99})
      iex> assert_captured "order_completed"
      iex> assert_captured "order_completed", %{"properties" => %{"revenue" => revenue}} when revenue > 0
      iex> revenue
      49.99
      iex> event = assert_captured "order_completed", %{"user_id" => "user-1"}, client: client, timeout: 1_000
      iex> event["event_name"]
      "order_completed"
  """
  defmacro assert_captured(name, pattern \\ quote(do: _), opts \\ []) do
    quote do
      event =
        BilldogEng.Test.__assert__(
          unquote(name),
          fn event -> match?(unquote(quietly(pattern)), event) end,
          {unquote(Macro.to_string(pattern)), unquote(pins(pattern))},
          unquote(opts)
        )

      # It matches; this binds the variables.
      unquote(pattern |> unguarded() |> quietly()) = event
      event
    end
  end

  @doc group: "Asserts"
  @doc """
  Asserts that no event of that name, which matches the pattern, has been captured, nor is so in time, and none that an
  ingest refuses. `opts` are those of `assert_captured/3`, its `:timeout` being ExUnit's `refute_receive_timeout`.

      iex> import BilldogEng.Test
      iex> {:ok, client} = BilldogEng.Analytics.start_link(mode: :test)
      iex> own()
      iex> BilldogEng.Analytics.capture(client, "user-1", "signed_up", %{plan: "pro"})
      iex> refute_captured "signed_up", %{"properties" => %{"password" => _}}, client: client, timeout: 0
      :ok
  """
  defmacro refute_captured(name, pattern \\ quote(do: _), opts \\ []) do
    quote do
      BilldogEng.Test.__refute__(
        unquote(name),
        fn event -> match?(unquote(quietly(pattern)), event) end,
        {unquote(Macro.to_string(pattern)), unquote(pins(pattern))},
        unquote(opts)
      )
    end
  end

  # Its pinned variables, for a failure to show what they are.
  defp pins(pattern) do
    {_, pins} =
      Macro.prewalk(pattern, [], fn
        {:^, _meta, [{name, _, context} = variable]} = pin, pins when is_atom(name) and is_atom(context) ->
          {pin, [{name, variable} | pins]}

        other, pins ->
          {other, pins}
      end)

    pins |> Enum.reverse() |> Enum.uniq_by(&elem(&1, 0))
  end

  defp unguarded({:when, _meta, [pattern, _guard]}), do: pattern
  defp unguarded(pattern), do: pattern

  # Its variables are not complained of where the test has no use for them.
  defp quietly(pattern) do
    Macro.prewalk(pattern, fn
      {name, meta, context} when is_atom(name) and is_atom(context) ->
        {name, [generated: true] ++ meta, context}

      other ->
        other
    end)
  end

  @doc false
  def __assert__(name, matches?, shown, opts) do
    {client, timeout} = options(opts, :assert_receive_timeout)
    owner = owner!(client)

    with :none <- Store.await(owner, client, named(name, matches?), timeout) do
      fail("no event #{inspect(name)}#{that_matches(shown)} was captured within #{timeout} ms", owner, client)
    else
      {:ok, event} ->
        accepted!(owner, client)
        event
    end
  end

  @doc false
  def __refute__(name, matches?, shown, opts) do
    {client, timeout} = options(opts, :refute_receive_timeout)
    owner = owner!(client)

    with {:ok, _event} <- Store.await(owner, client, named(name, matches?), timeout) do
      fail("an event #{inspect(name)}#{that_matches(shown)} was captured", owner, client)
    else
      :none -> accepted!(owner, client)
    end
  end

  # Of all the test's events, for one that an ingest refuses is captured by mistake, and seldom asserted.
  defp accepted!(owner, client) do
    if sentence = owner |> Store.events(client) |> Refusal.sentence(), do: fail(sentence, owner, client)
    :ok
  end

  defp that_matches({"_", _pins}), do: ""
  defp that_matches({shown, []}), do: " that matches #{shown}"

  defp that_matches({shown, pins}) do
    pinned = Enum.map_join(pins, ", ", fn {name, value} -> "#{name} = #{inspect(value)}" end)
    " that matches #{shown} (#{pinned})"
  end

  defp named(name, matches?) do
    name = if is_atom(name), do: Atom.to_string(name), else: name
    fn event -> event["event_name"] == name and matches?.(event) end
  end

  defp options(opts, exunits) do
    case Keyword.split(opts, [:client, :timeout]) do
      {opts, []} ->
        {client!(Keyword.get(opts, :client, :all)),
         opts[:timeout] || Application.fetch_env!(:ex_unit, exunits)}

      {_, unknown} ->
        raise ArgumentError, "takes :client and :timeout; there was #{inspect(Keyword.keys(unknown))}"
    end
  end

  defp fail(what, owner, client) do
    raise ExUnit.AssertionError, message: what <> "\n\n" <> listed(Store.events(owner, client)) <> strays()
  end

  defp listed([]), do: "This test has captured no event."

  defp listed(events) do
    shown =
      Enum.map_join(events, "\n", &("    " <> (&1 |> inspect(pretty: true, limit: :infinity) |> indented())))

    "This test has captured, the oldest first:\n\n" <> shown
  end

  defp indented(text), do: String.replace(text, "\n", "\n    ")

  defp strays do
    case Store.unowned() do
      0 ->
        ""

      count ->
        "\n\nSince the VM's start #{count} event(s) were of no test: see \"Whose events\" in BilldogEng.Test."
    end
  end

  # ── clients and processes ──

  defp owner!(client) do
    Store.ensure_started()

    Store.owner(client) ||
      raise ArgumentError,
            "#{inspect(self())} owns no events: a test's module has `use BilldogEng.Test`, " <>
              "or its setup calls BilldogEng.Test.own/0"
  end

  defp testing!(server) do
    client = client!(server)

    case Native.stats(client) do
      %{mode: :test} ->
        client

      %{mode: mode} ->
        raise ArgumentError, "the client #{inspect(server)} has mode: #{inspect(mode)}, not :test"

      :no_client ->
        raise ArgumentError, "there is no client #{inspect(server)}"
    end
  end

  defp client!(:all), do: :all
  defp client!(%BilldogEng{analytics: server}), do: client!(server)
  defp client!(server), do: process!(server)

  defp process!(server) do
    case GenServer.whereis(server) do
      pid when is_pid(pid) -> pid
      _ -> raise ArgumentError, "there is no process #{inspect(server)}"
    end
  end
end
