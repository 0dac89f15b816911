defmodule BilldogEng.ExceptionTest do
  use BilldogEng.ClientCase, async: true

  alias BilldogEng.Exceptions
  alias BilldogEng.Exceptions.Stacktrace

  @canary "s3cret"

  defmodule Odd do
    defexception [:field, :answer]
    @impl true
    def message(%{answer: answer}), do: answer.()
  end

  defmodule Callee do
    def only(:this), do: :ok
    def arity_two(_, _), do: :ok
  end

  # The VM's own error, with a real stacktrace.
  defp caught(fun) do
    fun.()
  catch
    kind, reason -> {kind, reason, __STACKTRACE__}
  end

  # Of another module at run time, so that no compiler sees what must fail.
  defp same(term), do: :erlang.binary_to_term(:erlang.term_to_binary(term))

  # Until Elixir 1.19, the update of a struct raised it for a term that is another struct or none.
  defp bad_struct(term), do: %{__struct__: BadStructError, __exception__: true, struct: URI, term: term}

  defp described(fun, messages) do
    {kind, reason, stacktrace} = caught(fun)
    normal = Exceptions.Event.normal(kind, reason, stacktrace)
    opts = [handled: false, messages: messages, in_app: nil]
    %{"$exception_list" => [entry]} = Exceptions.Event.properties(normal, stacktrace, opts)
    {entry["type"], entry["value"], entry["mechanism"]["synthetic"]}
  end

  defp captured(exception, stacktrace \\ [], properties \\ %{}),
    do: Exceptions.Event.captured(exception, stacktrace, properties)

  describe "what describes an exception" do
    test "quotes no value where messages are to be safe" do
      state = %{secret: @canary}

      table = [
        {fn -> raise "text #{@canary}" end, "RuntimeError", "in ", false},
        {fn -> Callee.only(same(state)) end, "FunctionClauseError",
         "no function clause matching in BilldogEng.ExceptionTest.Callee.only/1", false},
        {fn -> same(Callee).none(state) end, "UndefinedFunctionError",
         "function BilldogEng.ExceptionTest.Callee.none/1 is undefined or private", false},
        {fn -> 1 + same(@canary) end, "ArithmeticError", "bad argument in arithmetic expression", false},
        {fn -> :nothing = same(state) end, "MatchError", "no match of right hand side value", false},
        {fn -> Map.fetch!(same(state), :key) end, "KeyError", "key :key not found", false},
        {fn -> Map.fetch!(same(state), @canary) end, "KeyError", "key not found", false},
        {fn -> same(state).key end, "KeyError", "key :key not found", false},
        {fn -> Map.put(same(@canary), 1, 2) end, "BadMapError", "expected a map", false},
        {fn -> same(@canary) and true end, "BadBooleanError", "expected a boolean", false},
        {fn -> same(@canary).() end, "BadFunctionError", "expected a function", false},
        {fn -> same(&Callee.arity_two/2).(@canary) end, "BadArityError",
         "function with arity 2 called with 1 argument(s)", false},
        {fn -> :erlang.error(bad_struct(state)) end, "BadStructError", "expected a struct named URI", false},
        {fn -> to_string(same(state)) end, "Protocol.UndefinedError", "protocol String.Chars not implemented",
         false},
        {fn -> Enum.fetch!([@canary], same(1)) end, "Enum.OutOfBoundsError", "out of bounds error", false},
        {fn -> Date.from_iso8601!(same(@canary)) end, "ArgumentError", "in ", false},
        {fn -> String.to_existing_atom(same(@canary <> "1")) end, "ArgumentError", "in ", false},
        {fn -> :erlang.error(:no_such_error) end, "ErlangError", "Erlang error: :no_such_error", false},
        {fn -> :erlang.error({:tag, state}) end, "ErlangError", "Erlang error: {:tag, …}", false},
        {fn -> :erlang.error(state) end, "ErlangError", "in ", false},
        {fn -> raise Odd, field: state, answer: fn -> @canary end end, "BilldogEng.ExceptionTest.Odd", "in ",
         false},
        {fn -> throw({:thrown, state}) end, "throw", "in ", true},
        {fn -> exit(:timeout) end, "exit", ":timeout", true},
        {fn -> exit({:why, state}) end, "exit", "{:why, …}", true},
        {fn -> exit(state) end, "exit", "in ", true},
        {fn -> exit({:bad_return_value, state}) end, "exit", "bad return value", true},
        {fn -> GenServer.call(:nobody_here, {:request, state}) end, "exit",
         "exited in: GenServer.call/3: :noproc", true},
        {fn ->
           exit(
             {{%KeyError{key: :k, term: state}, [{Callee, :only, [state], []}]}, {GenServer, :call, [state]}}
           )
         end, "exit", "exited in: GenServer.call/1: KeyError: key :k not found", true},
        {fn -> exit({{:badmatch, state}, [{Callee, :only, [state], []}]}) end, "exit", "{:badmatch, …}", true}
      ]

      for {fun, type, value, synthetic} <- table do
        {got_type, got_value, got_synthetic} = described(fun, :safe)
        assert {got_type, got_synthetic} == {type, synthetic}

        # Without a message it is the place.
        if value == "in ",
          do: assert(got_value =~ ~r/^in .+\/\d+/, type),
          else: assert(got_value == value)

        refute got_value =~ @canary
      end
    end

    test "is its message where messages are asked for, arguments excepted" do
      state = %{secret: @canary}

      table = [
        {fn -> raise "text" end, "RuntimeError", "text"},
        {fn -> :nothing = same(@canary) end, "MatchError", Exception.message(%MatchError{term: @canary})},
        {fn -> throw(:ball) end, "throw", ":ball"},
        {fn -> exit({:why, 1}) end, "exit", "{:why, 1}"},
        {fn -> same(&Callee.arity_two/2).(state) end, "BadArityError",
         "function with arity 2 called with 1 argument(s)"},
        {fn -> GenServer.call(:nobody_here, {:request, state}) end, "exit",
         "exited in: GenServer.call/3: :noproc"},
        {fn -> raise Odd, answer: fn -> raise "inner" end, field: state end, "BilldogEng.ExceptionTest.Odd",
         "in "},
        {fn -> raise Odd, answer: fn -> throw(:x) end end, "BilldogEng.ExceptionTest.Odd", "in "},
        {fn -> raise Odd, answer: fn -> state end end, "BilldogEng.ExceptionTest.Odd", "in "}
      ]

      for {fun, type, value} <- table do
        {got_type, got_value, _} = described(fun, :all)
        assert got_type == type
        assert if(value == "in ", do: got_value =~ ~r/^in /, else: got_value == value), got_value
      end
    end

    test "is without arguments after Exception.blame/3 too" do
      for fun <- [fn -> Callee.only(same(@canary)) end, fn -> 1 + same(@canary) end] do
        {:error, reason, stacktrace} = caught(fun)
        {blamed, stacktrace} = Exception.blame(:error, reason, stacktrace)
        properties = captured(blamed, stacktrace)
        assert properties["$exception_message"] != ""
        refute inspect(properties, limit: :infinity) =~ @canary
      end
    end

    test "is at most 4 KiB, and no character is cut in two" do
      for text <- [
            "ab" <> String.duplicate("ü", 3_000),
            String.duplicate("€", 3_000),
            String.duplicate("x", 9_000)
          ] do
        message = captured(%RuntimeError{message: text})["$exception_message"]
        assert byte_size(message) in 4_090..4_100
        assert String.valid?(message)
        assert String.starts_with?(text, String.trim_trailing(message, "…"))
      end
    end
  end

  describe "frames" do
    test "are outermost first, with arity, place, and whose code they are" do
      {:error, _, stacktrace} = caught(fn -> Callee.only(same(@canary)) end)
      frames = Stacktrace.frames(stacktrace, nil)
      assert %{"function" => "BilldogEng.ExceptionTest.Callee.only/1"} = innermost = List.last(frames)
      assert innermost["module"] == "BilldogEng.ExceptionTest.Callee"
      assert innermost["filename"] == "test/exception_test.exs"
      assert is_integer(innermost["lineno"])
      assert innermost["in_app"]

      assert [%{"in_app" => false}] =
               BilldogEng.Exceptions.Stacktrace.frames([{:erlang, :map_get, 2, []}], nil)

      refute inspect(frames) =~ @canary

      assert %{"module" => "ExUnit.Runner", "in_app" => false} =
               Enum.find(frames, &(&1["module"] == "ExUnit.Runner"))

      assert Enum.map(innermost, &elem(&1, 0)) == ~w(filename function in_app lineno module)
    end

    test "of any list are those of it that are frames, a hundred at most" do
      frame = {Callee, :only, 1, []}

      for {stacktrace, count} <- [
            {nil, 0},
            {[], 0},
            {:x, 0},
            {[1, frame, {1, 2, 3}, {Callee, :only, [1 | 2], []}, {Callee, :only, -1, :x}], 1},
            {[frame | :improper], 1},
            {[{&Callee.only/1, [@canary], [file: ~c"a.ex", line: 3]}], 1},
            {[{Callee, :only, 1, [file: "b.ex", line: 0]}], 1},
            {List.duplicate(frame, 1_000), 100}
          ] do
        frames = Stacktrace.frames(stacktrace, nil)
        assert length(frames) == count
        refute inspect(frames) =~ @canary
      end
    end

    test "are of the app where it depends on this library, directly or by another" do
      applications = [
        shop: {[:kernel, :billdogeng], [Shop]},
        shop_web: {[:plug_like, :shop], [ShopWeb]},
        plug_like: {[:kernel], [PlugLike]}
      ]

      for {app, {uses, modules}} <- applications do
        :ok = :application.load({:application, app, applications: uses, modules: modules})
        on_exit(fn -> :application.unload(app) end)
      end

      in_app = fn option ->
        modules = [Shop, ShopWeb, PlugLike, Analytics, GenServer, :gen_server, InNoApplication]
        frames = Stacktrace.frames(for(module <- modules, do: {module, :f, 0, []}), option)
        for %{"in_app" => true, "module" => module} <- Enum.reverse(frames), do: module
      end

      assert in_app.(nil) == ~w(Shop ShopWeb InNoApplication)
      assert in_app.([:plug_like, :stdlib]) == ~w(PlugLike :gen_server InNoApplication)
      assert in_app.([]) == ~w(InNoApplication)
    end
  end

  describe "capture_exception" do
    test "sends an exception with its frames, and the caller's properties above its own" do
      collector = start_collector()
      client = start_client(collector, global_properties: %{app: "shop"})

      try do
        raise ArgumentError, "no such plan"
      rescue
        error ->
          properties = %{:plan => "pro", "$exception_level" => "warning", :"$exception_type" => "Own"}
          assert Analytics.capture_exception(client, "user-1", error, __STACKTRACE__, properties) == :ok
      end

      assert BilldogEng.capture_exception(client, "user-2", {:exit, :timeout}, []) == :ok
      assert Analytics.flush(client) == :ok
      assert [first, second] = Collector.events(collector)
      assert %{"event_name" => "$exception", "user_id" => "user-1", "properties" => properties} = first
      assert [%{"type" => "ArgumentError", "value" => "no such plan"} = entry] = properties["$exception_list"]
      assert entry["mechanism"] == %{"handled" => true, "synthetic" => false}
      assert %{"type" => "raw", "frames" => frames} = entry["stacktrace"]
      assert %{"in_app" => true, "module" => "BilldogEng.ExceptionTest"} = List.last(frames)

      assert %{"app" => "shop", "plan" => "pro", "$exception_level" => "warning", "$exception_type" => "Own"} =
               properties

      assert properties["$exception_message"] == "no such plan"

      assert %{"$exception_list" => [entry], "$exception_level" => "error", "$exception_type" => "exit"} =
               second["properties"]

      assert entry == %{
               "type" => "exit",
               "value" => ":timeout",
               "mechanism" => %{"handled" => true, "synthetic" => true},
               "stacktrace" => %{"type" => "raw", "frames" => []}
             }
    end

    test "takes whatever is caught, and any term" do
      table = [
        {%RuntimeError{message: "a"}, "RuntimeError", "a"},
        {{:error, %RuntimeError{message: "a"}}, "RuntimeError", "a"},
        {{:error, :badarith}, "ArithmeticError", "bad argument in arithmetic expression"},
        {:badarith, "ArithmeticError", "bad argument in arithmetic expression"},
        {{:throw, 1}, "throw", "1"},
        {{:exit, :normal}, "exit", ":normal"},
        {{{:EXIT, self()}, :killed}, "exit", ":killed"},
        {"text", "ErlangError", ~s(Erlang error: "text")},
        {nil, "ErlangError", "Erlang error: nil"},
        {~D[2026-01-01], "ErlangError", "Erlang error: ~D[2026-01-01]"},
        {%RuntimeError{message: nil}, "RuntimeError", ""},
        {%{__exception__: true, __struct__: NoSuchModule}, "NoSuchModule", ""},
        {%{__exception__: true, __struct__: 1}, "ErlangError", nil},
        {%FunctionClauseError{}, "FunctionClauseError", ""},
        {%BadArityError{function: 1, args: [1 | 2]}, "BadArityError", ""}
      ]

      for {term, type, value} <- table do
        properties = captured(term)
        assert properties["$exception_type"] == type
        if value, do: assert(properties["$exception_message"] == value)
      end
    end

    test "is :ok whatever the terms are, and whether or not the client lives" do
      client = start_client(nobody())
      terms = [nil, 1, "x", [1 | 2], {:a}, self(), make_ref(), %{}, ~D[2026-01-01], <<255>>, fn -> 1 end]

      for term <- terms do
        assert Analytics.capture_exception(client, term, term, term, term) == :ok
        assert Analytics.capture_exception(term, "u", term, [term], term) == :ok
      end

      assert Analytics.stats(client).captured == length(terms)
      assert Analytics.capture_exception(:no_such_client, "u", %RuntimeError{message: "x"}, []) == :ok
    end
  end
end
