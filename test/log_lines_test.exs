defmodule BilldogEng.LogLinesTest do
  @moduledoc """
  Log lines as an interface: guides/log-lines.md lists each of them, word for word.
  """

  use ExUnit.Case, async: true

  alias BilldogEng.{Error, LogExamples}
  alias BilldogEng.Log.{Drops, Failure, Lines, Notices, Text}

  @prefix "[BilldogEng:analytics] "

  describe "guides/log-lines.md" do
    defp rows(pattern), do: Regex.scan(pattern, File.read!("guides/log-lines.md"), capture: :all_but_first)

    test "lists the line and the level of each example, in their order" do
      rows =
        for [level, line] <- rows(~r/^- \*\*(debug|info|warning|error)\*\*, .+:\n  `(.+)`$/m),
            do: {String.to_atom(level), @prefix <> line}

      assert rows == LogExamples.lines()
    end

    test "lists the cause and the remedy of each example, in their order" do
      rows =
        for [cause, remedy] <- rows(~r/^- \*\*Cause\*\*: `(.+)`\.\n  \*\*Remedy\*\*: `(.+)`$/m),
            do: {cause, remedy}

      assert rows == LogExamples.causes()
    end

    test "has an example for each text in BilldogEng.Log.Lines and BilldogEng.Log.Diagnosis" do
      lines = Enum.map(LogExamples.lines(), &elem(&1, 1))
      shown = Enum.join(lines ++ Enum.flat_map(LogExamples.causes(), &Tuple.to_list/1), "\n")

      assert for(text <- texts("lines") ++ texts("diagnosis"), not String.contains?(shown, text), do: text) ==
               []
    end

    # The literal strings of a module, but for those that it compares with.
    defp texts(name) do
      {_, texts} =
        "lib/billdogeng/log/#{name}.ex"
        |> File.read!()
        |> Code.string_to_quoted!()
        |> Macro.prewalk([], fn
          {operator, _, _}, texts when operator in [:=~, :sigil_r, :sigil_w, :==] -> {nil, texts}
          {:code, _compared}, texts -> {nil, texts}
          text, texts when is_binary(text) -> {text, [text | texts]}
          node, texts -> {node, texts}
        end)

      texts
    end
  end

  test "BilldogEng.Log.Writer is the one module that calls Logger for these lines" do
    callers =
      for path <- Path.wildcard("lib/**/*.ex"),
          File.read!(path) =~
            ~r/^(?!\s*#).*Logger\.(debug|info|notice|warn|warning|error|critical|log|bare_log)\(/m,
          do: path

    # The collector is for development: it logs a failing function of a test, and a failure of its page.
    collector = ["lib/billdogeng/collector/connection.ex", "lib/billdogeng/collector/page/connection.ex"]
    assert callers -- collector == ["lib/billdogeng/log/writer.ex"]
  end

  describe "a line" do
    test "counts one event and several" do
      for {count, dropped} <- [{1, "dropped 1 event (stopped)"}, {2, "dropped 2 events (stopped)"}] do
        assert Lines.line({:dropped, :event, count, :stopped, %{}}) == {:warning, @prefix <> dropped}
      end

      for {notice, text} <- [
            {{:spool_opened, 1}, "spool: open, with 1 event"},
            {{:spool_adopted, 1},
             "spool: 1 event captured for another api_key or host is sent with this client's"},
            {{:client_found, :shop, 1}, "dropped 1 capture for :shop while no client had this name"},
            {{:flushes_succeed, :person_update, "http://x", 1, 1},
             "flushes to http://x succeed again after 1 failure: delivered 1 person update"}
          ] do
        assert {_, @prefix <> ^text} = Lines.line(notice)
      end
    end

    test "names the client by any name that it can have, but for the original's three" do
      for {name, shown} <- [
            {MyApp.Analytics, "MyApp.Analytics: "},
            {:shop, ":shop: "},
            {{:global, "a\nb"}, ~S({:global, "a\nb"}: )},
            {{:via, Registry, {MyApp.Registry, 17}}, "{:via, Registry, {MyApp.Registry, 17}}: "},
            {nil, ""}
          ] do
        assert Lines.line({:spool_opened, 2}, name) ==
                 {:info, @prefix <> shown <> "spool: open, with 2 events"}

        assert Lines.line({:flushed, :event, 2}, name) == {:debug, @prefix <> "flushed 2 event(s)"}
      end

      {_, line} = Lines.line({:spool_opened, 2}, {:global, String.duplicate("n", 100_000)})
      assert String.length(line) < 300
    end

    test "shows text from outside in one line, escaped and cut" do
      hostile = "a\n[error] b\u202Ec\0\e[31m\xFF" <> String.duplicate("d", 10_000)

      for notice <- [
            {:replaced, :event, hostile, "p"},
            {:replaced, :event, "e", hostile},
            {:too_large, :event, hostile, hostile, 1},
            {:spool_failed, hostile},
            {:spool_unavailable, hostile},
            {:spool_dir_invalid, hostile, hostile}
          ] do
        {_, line} = Lines.line(notice)
        assert line =~ ~S(a\n[error] b\u{202E}c\u{0}\u{1B}[31m\xFF) <> "ddd"
        assert line =~ "d…"
        assert String.length(line) < 1_500
        assert String.valid?(line)
        refute line =~ ~r/[[:cntrl:]\x{202E}]/u
      end
    end
  end

  describe "text" do
    test "is shown as it is unless a terminal would act on it" do
      for {text, shown} <- [
            {"", ""},
            {"grüße, 日本語 👩‍👩‍👧 \"x\" \\", "grüße, 日本語 👩‍👩‍👧 \"x\" \\"},
            {"\t\r\n", ~S(\t\r\n)},
            {<<0xC3>>, ~S(\xC3)},
            {"\u0085\u2028\u200F\u061C\u2066\uFEFF", ~S(\u{85}\u{2028}\u{200F}\u{61C}\u{2066}\u{FEFF})}
          ] do
        assert Text.shown(text) == shown
      end
    end

    test "is cut after so many characters, none of them in part" do
      assert Text.shown("äöü", 3) == "äöü"
      assert Text.shown("äöü!", 3) == "äöü…"
      assert Text.quoted("äöü!", 3) == ~s("äöü…")
    end
  end

  test "a failure is shown with its kind and place, without its message and arguments" do
    frame = {Shop, :pay, ["s3cret"], [file: ~c"lib/shop.ex", line: 7]}
    place = " in Shop.pay/1 (lib/shop.ex:7)"
    assert Failure.shown(:error, %RuntimeError{message: "s3cret"}, [frame]) == "raised RuntimeError" <> place
    assert Failure.shown(:error, {:badmatch, "s3cret"}, [frame]) == "raised MatchError" <> place
    assert Failure.shown(:throw, "s3cret", [frame]) == "ended by throw" <> place
    assert Failure.shown(:exit, "s3cret", []) == "ended by exit"
  end

  describe "drops" do
    test "are logged at once the first time, then in one sum a minute, until a minute has none" do
      key = {:event, :queue_full}
      assert {drops, 3} = Drops.add(%{}, key, 3)
      assert {drops, nil} = Drops.add(drops, key, 2)
      assert {drops, nil} = Drops.add(drops, key, 5)
      assert {drops, 1} = Drops.add(drops, {:person_update, :queue_full}, 1)
      assert {drops, 7} = Drops.summarise(drops, key)
      assert {drops, nil} = Drops.add(drops, key, 1)
      assert {drops, 1} = Drops.summarise(drops, key)
      assert {drops, nil} = Drops.summarise(drops, key)
      assert {_, 4} = Drops.add(drops, key, 4)
    end
  end

  describe "notices" do
    @native %{
      max_queue_size: 10,
      max_queue_bytes: 20,
      max_event_bytes: 30,
      spool_dir: nil,
      max_spool_bytes: 5
    }

    defp notices(debug \\ true, native \\ @native),
      do: Notices.new(%{host: "http://me:pa55@x", proxy: nil}, native, debug)

    defp handle(notices, given, lane \\ :event, missed \\ 0),
      do: Notices.handle(notices, lane, given, missed, 0)

    defp written(actions), do: for({:write, notice} <- actions, do: notice)

    test "of a drop are logged, reported back and summed up" do
      {notices, actions} = handle(notices(), [{:queue_full_by, :max_queue_bytes}, {:dropped, :queue_full, 3}])

      assert [
               {:write, {:queue_full, :event, 3}},
               {:write, {:dropped, :event, 3, :queue_full, %{limit: :max_queue_bytes, max_queue_bytes: 20}}},
               {:logged, :event, :queue_full, 3},
               {:summarise, {:event, :queue_full} = key, 60_000}
             ] = actions

      assert {notices, [{:write, {:queue_full, :event, 2}}]} = handle(notices, [{:dropped, :queue_full, 2}])

      assert {notices, [{:write, {:dropped, _, 2, _, _}}, {:logged, _, _, 2}, _]} =
               Notices.summarise(notices, key)

      assert {_, []} = Notices.summarise(notices, key)
    end

    test "of drops that the app asked for, or that the quota's lines have, are none" do
      for reason <- [:quota, :purged, :disabled],
          do: assert({_, []} = handle(notices(), [{:dropped, reason, 3}]))
    end

    test "of a refusal name the status of their own lane" do
      {notices, []} = handle(notices(), [{:refused_with, 422}], :person_update)
      {_, actions} = handle(notices, [{:refused_with, 400}, {:dropped, :rejected, 1}])
      assert [{:dropped, :event, 1, :rejected, %{status: 400}}] = written(actions)
      {_, actions} = handle(notices, [{:dropped, :rejected, 1}], :person_update)
      assert [{:dropped, :person_update, 1, :rejected, %{status: 422}}] = written(actions)
    end

    test "of a flush that delivered a part and failed do not end an outage" do
      failed = {:flush_failed, 2, {"HTTP 503", 503, nil, nil}}
      {notices, actions} = handle(notices(), [failed])

      assert [
               {:flush_failed, :event, 2, "HTTP 503"},
               {:flushes_fail, :event, "http://x", {:first, 1}, _, kept, _}
             ] = written(actions)

      assert kept == {2, {:max_queue_size, 10}}
      {notices, actions} = handle(notices, [{:flushed, 1}, failed])
      assert [{:flushed, :event, 1}, {:flush_failed, :event, 2, _}] = written(actions)
      {_, actions} = handle(notices, [{:flushed, 3}])
      assert [{:flushed, :event, 3}, {:flushes_succeed, :event, "http://x", 2, 3}] = written(actions)
    end

    test "of the flushes have the message of the ingest escaped" do
      {_, actions} = handle(notices(), [{:flush_failed, 2, {"a\nb", 400, nil, nil}}])
      assert [{:flush_failed, :event, 2, ~S(a\nb)}, {:flushes_fail, _, _, _, cause, _, _}] = written(actions)
      assert cause =~ ~S(a\nb)
    end

    test "of the quota are two lines, and end an outage without one" do
      {notices, _} = handle(notices(), [{:flush_failed, 2, {"HTTP 503", 503, nil, nil}}])
      {notices, actions} = handle(notices, [{:suspended, 900}])
      assert written(actions) == [{:suspended, :event, 15}]
      {_, actions} = handle(notices, [{:resumed, 7}, {:flushed, 1}])

      assert actions == [
               {:write, {:resumed, :event, 7}},
               {:logged, :event, :quota, 7},
               {:write, {:flushed, :event, 1}}
             ]
    end

    test "of the debug level are logged with :enable_logging only" do
      given = [{:flushed, 1}, {:dropped, :queue_full, 1}, {:flush_failed, 1, {"no", 400, nil, nil}}]
      {_, actions} = handle(notices(false), given, :event, 44)
      assert [{:dropped, _, _, _, _}, {:flushes_fail, _, _, _, _, _, _}] = written(actions)
      {_, actions} = handle(notices(true), given, :event, 44)
      assert {:notices_left_out, 44} = actions |> written() |> List.last()
      assert length(written(actions)) == 6
    end

    test "of the spool, of places and of a panic are a line each" do
      for {given, notice} <- [
            {{:no_spool, "r"}, {:spool_unavailable, "r"}},
            {{:spool_failed, "p"}, {:spool_failed, "p"}},
            {{:spool_resumed, "t"}, {:spool_resumed, "t"}},
            {{:spool_opened, 1}, {:spool_opened, 1}},
            {{:spool_of_another, 2}, {:spool_adopted, 2}},
            {{:replaced_at, "e", "p"}, {:replaced, :event, "e", "p"}},
            {{:too_large_at, "e", "p"}, {:too_large, :event, "e", "p", 30}},
            {:panicked, {:panicked, :event}}
          ] do
        assert {_, [{:write, ^notice}]} = handle(notices(), [given])
      end
    end

    test "name where the events of a failed flush are kept" do
      for {lane, native, kept} <- [
            {:event, @native, {:max_queue_size, 10}},
            {:event, %{@native | max_queue_size: nil}, {:max_queue_bytes, 20}},
            {:event, %{@native | spool_dir: "/x"}, {:max_spool_bytes, 5}},
            {:person_update, %{@native | spool_dir: "/x"}, :person_updates}
          ] do
        {_, actions} = handle(notices(false, native), [{:flush_failed, 2, {"no", 400, nil, nil}}], lane)
        assert [{:flushes_fail, ^lane, "http://x", _, _, {2, ^kept}, _}] = written(actions)
      end
    end
  end

  describe "BilldogEng.Error's table" do
    @codes ~r/code: Some\("([A-Z_]+)"|without_answer\(\s*"([A-Z_]+)"/

    test "lists the codes that the library makes, and no other" do
      {:docs_v1, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(Error)
      listed = for [code] <- Regex.scan(~r/^  \* `"([A-Z_]+)"` \(/m, doc, capture: :all_but_first), do: code

      elixir =
        for path <- Path.wildcard("lib/**/*.ex"),
            [code] <-
              Regex.scan(~r/Error\.new\([^\n]*?, 0, "([A-Z_]+)"/, File.read!(path), capture: :all_but_first),
            path != "lib/billdogeng/error.ex",
            do: code

      rust =
        for path <- Path.wildcard("native/billdogeng{,_nif}/src/**/*.rs"),
            [source | _tests] = path |> File.read!() |> String.split("#[cfg(test)]"),
            codes <- Regex.scan(@codes, source, capture: :all_but_first),
            do: List.last(codes)

      assert Enum.sort(listed) == Enum.sort(Enum.uniq(elixir ++ rust))
    end
  end
end
