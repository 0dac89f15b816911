defmodule BilldogEng.TestRefusalTest do
  use BilldogEng.ClientCase, async: true
  use BilldogEng.Test

  setup do
    {:ok, client} = Analytics.start_link(mode: :test)
    %{client: client}
  end

  defp failure(fun), do: assert_raise(ExUnit.AssertionError, fun).message

  test "an event that an ingest refuses fails the asserts with a sentence, and no capture raises", context do
    %{client: client} = context

    for {id, name, properties, expected} <- [
          {"u", "", %{}, ~s(refuses the event "": its name is empty)},
          {"u", 42, %{}, "refuses the event 42: its name must be a string or an atom, got: 42"},
          {"u", nil, %{}, "refuses the event nil: its name must be a string or an atom, got: nil"},
          {nil, "e", %{}, ~s(refuses the event "e": it has no distinct ID, got: nil)},
          {"", "e", %{}, ~s(refuses the event "e": it has no distinct ID, got: "")},
          {"u", "e", "text",
           ~s(refuses the event "e": its properties must be a map or keyword list, got: "text")},
          {"u", "e", [1, 2], "its properties must be a map or keyword list, got: [1, 2]"}
        ] do
      # A test of its own, with one good event beside the bad one.
      Task.await(
        Task.async(fn ->
          Process.delete(:"$callers")
          BilldogEng.Test.own()
          assert Analytics.capture(client, "u", "good", %{}) == :ok
          assert_captured "good", _, client: client
          assert Analytics.capture(client, id, name, properties) == :ok
          assert failure(fn -> assert_captured("good", _, client: client) end) =~ expected
          assert failure(fn -> refute_captured("none", _, client: client, timeout: 0) end) =~ expected
          assert [_good, _bad] = captured(client)
        end)
      )
    end
  end

  test "what an ingest accepts passes", %{client: client} do
    Analytics.capture(client, 7, :an_atom)
    Analytics.capture(client, "u", "list", plan: :pro)
    Analytics.identify(client, "u", "text")
    Analytics.alias(client, "u", "v")
    Analytics.group_identify(client, "company", "acme", %{seats: 1})
    Analytics.set_person_properties(client, "u", set: %{a: 1})
    assert_captured "an_atom", %{"user_id" => 7}, client: client
    assert_captured "$set_person_properties", _, client: client
    refute_captured "other", _, client: client, timeout: 0
  end
end
