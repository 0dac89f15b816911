defmodule BilldogEng.WireEventTest do
  use ExUnit.Case, async: true

  alias BilldogEng.Collector.WireEvent

  doctest WireEvent

  @event %{"event_name" => "signed_up", "event_timestamp" => 1, "properties" => %{}, "user_id" => "user-1"}

  test "problems/1 accepts a string or a number as user_id" do
    for id <- ["user-1", 0, 7, 1.5, Integer.pow(10, 40)] do
      assert WireEvent.problems(%{@event | "user_id" => id}) == []
    end
  end

  test "problems/1 names the field, the fault and the value" do
    for {key, value, problem} <- [
          {"event_name", nil, "event_name is nil"},
          {"event_name", "", "event_name is empty"},
          {"event_name", 42, "event_name is not a string: 42"},
          {"event_name", true, "event_name is not a string: true"},
          {"user_id", nil, "user_id is nil"},
          {"user_id", "", "user_id is empty"},
          {"user_id", false, "user_id is neither a string nor a number: false"},
          {"user_id", ["a"], ~s(user_id is neither a string nor a number: ["a"])},
          {"properties", nil, "properties is nil"},
          {"properties", "", ~s(properties is not a map: "")},
          {"properties", [1], "properties is not a map: [1]"},
          {"event_timestamp", nil, "event_timestamp is nil"},
          {"event_timestamp", "1", ~s(event_timestamp is not an integer: "1")},
          {"event_timestamp", 1.5, "event_timestamp is not an integer: 1.5"}
        ] do
      assert WireEvent.problems(%{@event | key => value}) == [problem]
    end
  end

  test "problems/1 reports each missing field" do
    assert WireEvent.problems(%{}) == [
             "event_name is missing",
             "user_id is missing",
             "properties is missing",
             "event_timestamp is missing"
           ]
  end

  test "problems/1 reports an event that is not a map" do
    for {event, shown} <- [{nil, "nil"}, {[], "[]"}, {"a", ~s("a")}, {7, "7"}] do
      assert WireEvent.problems(event) == ["the event is not a map: #{shown}"]
    end
  end

  test "problems/1 cuts long values" do
    long = String.duplicate("a", 100_000)

    for value <- [[long], List.duplicate(1, 100_000), Map.new(1..10_000, &{"#{&1}", long})] do
      [problem] = WireEvent.problems(%{@event | "event_name" => value})
      assert byte_size(problem) < 500
    end
  end
end
