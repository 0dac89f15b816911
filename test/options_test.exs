defmodule BilldogEng.OptionsTest do
  use ExUnit.Case, async: true

  alias BilldogEng.Client.{Native, Options}
  alias BilldogEng.Client.Options.{Docs, Schema, Type}

  # The list's items, parsed from the text: `{name, default}`.
  defp listed(markdown) do
    for [_, name, default] <- Regex.scan(~r/^  \* `:(\w+)` - .* Default: `(.+?)`/m, markdown) do
      {String.to_atom(name), default |> Code.eval_string() |> elem(0)}
    end
  end

  test "the docs of start_link/1 list every option with its default and what it accepts" do
    {:docs_v1, _, _, _, _, _, docs} = Code.fetch_docs(BilldogEng.Analytics)
    {_, _, _, %{"en" => doc}, _} = List.keyfind(docs, {:function, :start_link, 1}, 0)

    assert doc =~ Docs.list("###")
    assert Enum.map(listed(doc), &elem(&1, 0)) == Schema.names()
    assert Map.new(listed(doc)) == Schema.defaults()
    assert length(Regex.scan(~r/^    Accepts .+\.$/m, doc)) == length(Schema.names())
  end

  test "guides/configuration.md lists every option" do
    guide = File.read!(Docs.guide_path())

    assert guide == Docs.put_into_guide(guide),
           "the list in #{Docs.guide_path()} differs from lib/billdogeng/client/options/schema.ex. " <>
             "Update it: mix run bin/options.exs"

    assert Map.new(listed(guide)) == Schema.defaults()
  end

  test "an option has one row, and its default is a value that it accepts" do
    assert Schema.names() == Enum.uniq(Schema.names())

    for {name, default} <- Schema.defaults() do
      assert Type.valid?(Schema.type(name), default), inspect(name)
      assert Type.effect(name, Schema.type(name), default) == nil, inspect(name)
    end
  end

  test "the defaults are those of the original client, and the documented bounds" do
    assert %{
             host: "https://api.billdog.io/v1",
             flush_at: 20,
             flush_interval: 10_000,
             max_queue_size: 1_000,
             gzip: true,
             request_timeout: 10_000,
             max_retries: 3,
             enable_logging: false,
             max_queue_bytes: 67_108_864,
             max_batch_size: 1_000,
             max_batch_bytes: 1_048_576,
             max_event_bytes: 1_048_576,
             shutdown_timeout: 5_000,
             insert_ids: false
           } = Schema.defaults()
  end

  test "a :transport has the options of a request as its parts" do
    config = BilldogEng.Transport.config(host: "http://h", request_timeout: 1, gzip: false, max_retries: 7)
    {:ok, options} = Options.parse(api_key: "key", mode: :disabled, transport: config, request_timeout: 2)
    assert %{host: "http://h", request_timeout: 2, gzip: false, max_retries: 7} = options.native
    assert Enum.sort(Map.keys(options.transport) -- [:enable_logging]) == Enum.sort(Schema.request_names())
  end

  test "numbers of events are rounded so that they keep their effect, and a limit that is none is nil" do
    for {option, value, native} <- [
          {:flush_at, 2.5, 3},
          {:flush_at, 0, 1},
          {:flush_at, :infinity, nil},
          {:flush_at, nil, nil},
          {:flush_at, Integer.pow(2, 64), nil},
          {:max_queue_size, 2.5, 2},
          {:max_queue_size, -1, 0},
          {:max_queue_size, :infinity, nil},
          {:request_timeout, :infinity, nil},
          {:max_retries, :infinity, nil},
          {:max_retries, 0, 0},
          {:api_key, " key\n", "key"},
          {:api_key, nil, ""},
          {:geoip_resolution_level, :city, "city"},
          {:cacertfile, ~c"/a", "/a"},
          {:sleep_fn, &Process.sleep/1, false},
          {:sleep_fn, &is_integer/1, true},
          {:group_type_index, %{a: 0}, [{"a", "a", 0}]},
          {:group_type_index, %{"b" => 4}, [{"s", "b", 4}]},
          {:group_type_index, %{3 => 5}, [{"i", "3", nil}]},
          {:group_type_index, %{{} => 1, "c" => nil, <<255>> => 1}, []},
          {:group_type_index, [a: 0], []}
        ] do
      assert Type.to_native(Schema.type(option), value) == native, inspect({option, value})
    end
  end

  # They have their effect before an event reaches the native library.
  @elixir_only [:name, :transport, :enable_logging, :global_properties, :context, :before_send]

  test "the native library reads every option by its name, and names one that it can't read" do
    {:ok, %{native: native}} = Options.parse(mode: :disabled)
    native = %{native | spool_dir: "/nowhere"}
    assert {:ok, _} = start(native)

    for name <- Schema.names() do
      missing = start(Map.delete(native, name))

      if name in @elixir_only,
        do: assert({:ok, _} = missing),
        else: assert(missing == {:error, "the native library can't read the value of #{inspect(name)}"})
    end

    assert {:error, "the native library can't read the value of :gzip"} = start(%{native | gzip: 1})

    assert {:error, :max_retries, "the native library can't read" <> _} =
             Native.check(%{native | max_retries: "3"})
  end

  # The process that starts a client owns it.
  defp start(native), do: fn -> Native.start(native, nil, nil) end |> Task.async() |> Task.await()

  test "an error names the option, the accepted values and the given one" do
    for {option, value, message} <- [
          {:flush_interval, "10",
           ~s(invalid value for :flush_interval: expected milliseconds as a non-negative integer, got: "10")},
          {:max_retries, Integer.pow(2, 64),
           "invalid value for :max_retries: expected a non-negative integer, or :infinity, " <>
             "got: 18446744073709551616 (it exceeds 64 bits)"},
          {:host, "http://me:s3cret@h?q",
           "invalid value for :host: expected an http:// or https:// address, " <>
             ~s[got: "http://h" (it has a query (?\))]},
          {:proxy, "s3cret",
           "invalid value for :proxy: expected an http:// or https:// address, :environment or nil " <>
             "(it does not begin with http:// or https://)"},
          {:api_key, "s3\ncret",
           "invalid value for :api_key: expected a string of UTF-8 without control characters"},
          {:transport, "s3cret",
           "invalid value for :transport: expected what BilldogEng.Transport.config/1 returns"}
        ] do
      assert_raise ArgumentError, message, fn -> Options.parse([{option, value}]) end
    end
  end
end
