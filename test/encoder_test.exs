defmodule BilldogEng.EncoderTest do
  use BilldogEng.ClientCase, async: true

  alias BilldogEng.{Encoded, Terms, Unshowable}

  # The bytes of a property in the raw body.
  defp raw(term) do
    collector = start_collector()
    client = start_client(collector, gzip: false)
    assert Analytics.capture(client, "u", "e", %{"@" => term}) == :ok
    assert Analytics.flush(client) == :ok
    [%{body: body}] = Collector.requests(collector)
    [_, json] = Regex.run(~r/"properties":\{"@":(.*)\},"user_id"/s, body)
    json
  end

  test "numbers are written to the last digit, and floats with the fewest that read back the same" do
    for {number, json} <- [
          {0, "0"},
          {-(2 ** 63), "-9223372036854775808"},
          {2 ** 64, "18446744073709551616"},
          {-(10 ** 40), "-1" <> String.duplicate("0", 40)},
          {0.1, "0.1"},
          {-0.0, "-0.0"}
        ],
        do: assert(raw(number) == json)

    for float <- [1.7976931348623157e308, 5.0e-324, 2.2250738585072014e-308, 1.0e21, 1.0e-7, 123_456_789.0] do
      text = raw(float)
      assert :erlang.float(parse(text)) == float
      assert digits(text) <= digits(Float.to_string(float))
    end
  end

  defp parse(text), do: text |> Float.parse() |> elem(0)
  defp digits(text), do: text |> String.replace(~r/e.*|\D|\.0$/, "") |> String.length()

  test "strings are escaped where JSON asks for it, and nowhere else" do
    assert raw("a\"\\\n\r\t\b\f\0\x1f\x7f/é\u2028😀") == ~S("a\"\\\n\r\t\b\f\u0000\u001f) <> "\x7f/é\u2028😀\""
    assert raw(<<"a", 0xFF, "b", 0xE2, 0x82, "c", 0x80>>) == ~s("a\uFFFDb\uFFFDc\uFFFD")
  end

  test "empty containers, nil as a key, atoms of every script" do
    assert raw(%{}) == "{}"
    assert raw([]) == "[]"
    assert raw({}) == "[]"
    assert raw(%{nil => 1}) == ~s({"nil":1})
    assert raw(%{ключ: :значение}) == ~s({"ключ":"значение"})
    assert raw(a: 1, a: 2) == ~s({"a":2})
  end

  test "maps with keys of two kinds cost no more for being nested" do
    for {name, more} <- [{"n", 1}, {<<255>>, 1}] do
      {term, json} =
        Enum.reduce(1..90, {0, "0"}, fn _, {term, json} ->
          key = if name == "n", do: :rows, else: "a"
          text = if name == "n", do: ~s({"rows":#{json},"n":1}), else: ~s({"a":#{json},"\uFFFD":1})
          {%{key => term, name => more}, text}
        end)

      assert raw(term) == json
    end
  end

  test "of equal keys of two kinds the last in the map's order is written, wherever it stands" do
    assert raw(%{:a => 1, "a" => 2}) == ~s({"a":2})
    assert raw(%{:a => 1, :b => 2, "a" => 3}) == ~s({"b":2,"a":3})

    assert raw(%{:b => [1, %{:a => 1, "a" => 2}], "b" => 3, "c" => %{1 => 1, "1" => 2}}) ==
             ~s({"b":3,"c":{"1":2}})

    assert raw(%{1 => %{a: 1}, "1" => %{"b" => 2}, "2" => 3}) == ~s({"1":{"b":2},"2":3})
  end

  test "values that are overridden do not count as replaced" do
    client = start_client(start_collector())
    Analytics.capture(client, "u", "e", %{:a => {1}, "a" => 2})
    assert Analytics.stats(client).replaced == 0
    Analytics.capture(client, "u", "e", %{:a => {1}, :b => {2}, "a" => 2})
    assert Analytics.stats(client).replaced == 1
  end

  test "what has no form of its own is its inspect, and fields that are not to be seen are not" do
    assert raw(1..3) == ~s("1..3")
    assert raw(<<1::3>>) == ~s("<<1::size(3\)>>")
    assert raw([1 | 2]) == ~s("[1 | 2]")
    assert raw(self()) == ~s("#{inspect(self())}")
    assert raw(%Terms.Shy{shown: 1, hidden: "s3cret"}) == ~s("#BilldogEng.Terms.Shy<shown: 1, ...>")
    assert raw(%Unshowable{}) =~ "#Error<"
    refute raw([%Unshowable{}, %{a: %Unshowable{}}]) =~ "s3cret"
  end

  describe "an encoder of the app's own" do
    test "is honoured, deep inside and in every position" do
      encoded = %Encoded{as: {:json, ~s({"shown":1})}}
      assert raw(encoded) == ~s({"shown":1})
      assert raw([1, %{a: {encoded}}]) == ~s([1,{"a":[{"shown":1}]}])

      collector = start_collector()
      client = start_client(collector)
      Analytics.capture(client, encoded, encoded, encoded, %{team: encoded})
      Analytics.identify(client, "u", encoded)
      assert Analytics.flush(client) == :ok
      assert [event, %{"properties" => %{"$set" => %{"shown" => 1}}}] = Collector.events(collector)
      assert %{"user_id" => %{"shown" => 1}, "event_name" => %{"shown" => 1}} = event
      assert event["properties"]["$groups"] == %{"team" => %{"shown" => 1}}
      assert Analytics.stats(client).replaced == 0
    end

    test "may give any one JSON value, as iodata" do
      for json <- ["1", [?", "a", ["b"], ?"], "null", "[]", " {} "] do
        assert raw(%Encoded{as: {:json, json}}) == IO.iodata_to_binary(json)
      end
    end

    test "that fails or gives no JSON costs its value, not the event" do
      for as <- [
            :raise,
            :throw,
            :exit,
            {:json, "{"},
            {:json, "1 2"},
            {:json, ""},
            {:json, "{}]"},
            {:json, :no}
          ] do
        json = raw(%{"a" => %Encoded{as: as}, "b" => 1})
        assert json =~ ~r/^\{"a":"#Error<.*>","b":1\}$/
        refute json =~ "s3cret"
      end
    end

    test "may capture an event itself" do
      collector = start_collector()
      client = start_client(collector)
      inner = fn -> Analytics.capture(client, "u", "inner", %{pid: self()}) end
      Analytics.capture(client, "u", "outer", %{a: %Encoded{as: {:call, inner}}, b: self()})
      assert Analytics.flush(client) == :ok
      assert names(collector) == ["inner", "outer"]
    end
  end
end
