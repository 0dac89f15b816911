defmodule BilldogEng.JSONDecodeTest do
  use ExUnit.Case, async: true

  import BilldogEng.Client.Native, only: [json_decode: 1]

  test "json_decode/1 returns values of every kind" do
    for {text, value} <- [
          {"0", 0},
          {"-0", 0},
          {"-0.0", -0.0},
          {"1e3", 1000.0},
          {"1E+3", 1000.0},
          {"-1.5E-2", -0.015},
          {"5e-324", 5.0e-324},
          {"1.7976931348623157e308", 1.7976931348623157e308},
          {"1e-999", 0.0},
          {"0e999", 0.0},
          {"9223372036854775807", 9_223_372_036_854_775_807},
          {"-9223372036854775809", -9_223_372_036_854_775_809},
          {"18446744073709551616", 18_446_744_073_709_551_616},
          {"-1" <> String.duplicate("0", 5_000), -Integer.pow(10, 5_000)},
          {~s("\\u00e9\\ud83d\\ude00\\n\\/\\b\\f\\r\\t\\"\\\\"), "é😀\n/\b\f\r\t\"\\"},
          {~s("\\u0000"), <<0>>},
          {~s(""), ""},
          {"\"" <> String.duplicate("é", 1_000) <> "\"", String.duplicate("é", 1_000)},
          {" \t\r\n[ ] ", []},
          {" { } ", %{}},
          {"[1,[2,{\"\":null}]]", [1, [2, %{"" => nil}]]},
          {~s({"a":{"b":[true,false,null]},"a":1}), %{"a" => 1}},
          {~s({"a":1,"\\u0061":2}), %{"a" => 2}}
        ] do
      assert {:ok, decoded} = json_decode(text)
      # -0.0 == 0.0
      assert :erlang.term_to_binary(decoded) == :erlang.term_to_binary(value)
    end
  end

  test "json_decode/1 returns maps of every size" do
    for size <- [1, 31, 32, 33, 10_000] do
      map = Map.new(1..size, &{"key-#{&1}", &1})
      text = "{" <> Enum.map_join(map, ",", fn {key, value} -> ~s("#{key}":#{value}) end) <> "}"
      assert json_decode(text) == {:ok, map}
    end
  end

  test "json_decode/1 refuses what RFC 8259 does not allow, and names the place" do
    for text <- [
          "",
          " ",
          "01",
          "-",
          "1.",
          ".5",
          "+1",
          "1e",
          "NaN",
          "nul",
          "[1,]",
          "[1 2]",
          "{\"a\"}",
          "{a:1}",
          "{1:2}",
          "{\"a\":1,}",
          "1 2",
          "1\0",
          "'a'",
          "\"a",
          "\"\\x\"",
          "\"\\u12g4\"",
          "\"\\ud800\"",
          "\"\\udc00\"",
          "\"\\ud800\\u0041\"",
          "\"\t\"",
          <<?", 0xFF, ?">>,
          <<?", 0xED, 0xA0, 0x80, ?">>,
          <<?", 0xC3>>,
          <<0xEF, 0xBB, 0xBF, ?1>>
        ] do
      assert {:error, message} = json_decode(text), inspect(text)
      assert message =~ ~r/ at line 1 column \d+$/
    end
  end

  test "json_decode/1 refuses numbers that the VM has not, or that would take minutes" do
    assert json_decode("[1e999]") == {:error, "a float beyond 64 bits"}
    assert json_decode("-1" <> String.duplicate("0", 400) <> ".5") == {:error, "a float beyond 64 bits"}
    assert {:ok, _} = json_decode(String.duplicate("7", 100_000))

    assert json_decode(~s({"a":) <> String.duplicate("7", 1_000_000) <> "}") ==
             {:error, "an integer of more than 100000 digits"}
  end

  test "json_decode/1 refuses nesting deeper than 127 levels, with the reason" do
    nested = &(String.duplicate("[", &1) <> String.duplicate("]", &1))
    assert {:ok, [[_]]} = json_decode(nested.(127))

    for depth <- [128, 1_000_000] do
      assert json_decode(nested.(depth)) == {:error, "nested deeper than 127 levels at line 1 column 128"}
    end
  end

  test "json_decode/1 raises for what is no binary" do
    for term <- [nil, 1, [1], %{}], do: assert_raise(ArgumentError, fn -> json_decode(term) end)
  end
end
