defmodule BilldogEng.Client.Options.Schema do
  @moduledoc false
  # The table of a client's options: one row `{name, default, type, doc}` for each, in groups.
  #
  # The checks, the defaults, the docs of `BilldogEng.Analytics.start_link/1`, the list in guides/configuration.md and
  # the map that the native library reads are derived from these rows. `Type` lists the types. The first line of a doc
  # continues "`:option` - "; `Docs` puts the default and the accepted values behind it.

  alias BilldogEng.Client.Options.Type

  @mib 1024 * 1024
  @day :timer.hours(24)

  @client [
    {:api_key, nil, :key,
     """
     the project's key.
     Blanks around it are removed. Without a key, or with a blank one, the client starts with `mode: :disabled` and
     logs one warning.
     """},
    {:mode, :live, {:one_of, [:live, :test, :disabled]},
     """
     whether events are sent.
     `:live` sends them, `:test` keeps them in memory for `BilldogEng.Test`, and `:disabled` only counts them.
     The last two need no key, and have no thread, socket or file.
     """},
    {:name, nil, :name,
     """
     the name under which the client is registered.
     """},
    {:transport, nil, :transport,
     """
     a map of the options in "Requests", in place of them.
     Such an option that is also given by itself overrides its part of the map.
     """},
    {:enable_logging, false, {:lenient, {:one_of, [true, false, nil]}, "false"},
     """
     whether the result of each flush is logged at debug level.
     """}
  ]

  # Exactly the parts of a `:transport`.
  @requests [
    {:host, "https://api.billdog.io/v1", :address,
     """
     the address of the ingest.
     """},
    {:request_timeout, 10_000, {:or_infinity, {:integer, 1, :ms}},
     """
     the time for one attempt, from connecting to the last byte of the response.
     """},
    {:max_retries, 3, {:or_infinity, {:integer, 0, nil}},
     """
     the number of attempts after the first one within a flush.
     """},
    {:gzip, true, :boolean,
     """
     whether bodies of 1,024 bytes or more are compressed.
     """},
    {:proxy, nil, :proxy,
     """
     the address of an HTTP proxy.
     `:environment` reads `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` as they were when the VM started.
     With nil no proxy is used, whatever these variables contain.
     """},
    {:cacertfile, nil, :pem_file,
     """
     a file with the certificate authorities to trust.
     With nil these are the ones that `SSL_CERT_FILE` or `SSL_CERT_DIR` names, else the system's, else those of
     `CAStore` if the app has it.
     """},
    {:sleep_fn, &Process.sleep/1, :sleep,
     """
     a function that waits between two attempts, for tests.
     It is called with the milliseconds of each wait. Person updates do not use it.
     """}
  ]

  @queue [
    {:flush_at, 20, {:lenient, {:events, &ceil/1, 1}, ":infinity: no number of events makes a flush due"},
     """
     the number of queued events that starts a flush.
     """},
    {:flush_interval, 10_000, {:integer, 0, :ms},
     """
     the time between two automatic flushes while events are queued.
     """},
    {:max_queue_size, 1_000,
     {:lenient, {:events, &floor/1, 0}, ":infinity: only :max_queue_bytes is a bound"},
     """
     the number of events kept while no flush is due or running, and after a failed flush.
     The oldest events are dropped first. Events in flight are not counted.
     """},
    {:max_queue_bytes, 64 * @mib, {:integer, 1, :bytes},
     """
     the size of the JSON of all events kept in memory, at any time.
     The oldest events are dropped first. Events in flight are not counted.
     """},
    {:max_batch_size, 1_000, {:integer, 1, nil},
     """
     the largest number of events in one request.
     """},
    {:max_batch_bytes, 1 * @mib, {:integer, 1, :bytes},
     """
     the largest size of the JSON of one request, before compression.
     """},
    {:max_event_bytes, 1 * @mib, {:integer, 1, :bytes},
     """
     the largest size of the JSON of one event.
     A larger event is dropped.
     """},
    {:shutdown_timeout, 5_000, {:integer, 0, :ms},
     """
     the time for which the client continues to send after its process has ended.
     """}
  ]

  @events [
    {:global_properties, nil, :properties,
     """
     properties of every captured event.
     Properties passed to `capture/6` override them. A function is called in the capturing process.
     """},
    {:context, false, :boolean,
     """
     whether every captured event gets the properties of its process's `BilldogEng.Context`.
     Properties passed to `capture/6` override them.
     """},
    {:before_send, nil, :event_function,
     """
     a function that changes or drops each event.
     It is called in the capturing process with a map of `"event_name"`, `"event_timestamp"` (ms), `"properties"` and
     `"user_id"`, and returns the event, changed or not, or nil to drop it. `{module, function, args}` is called with
     the event before `args`. If the function raises or returns anything else, the event is dropped.
     """},
    {:group_type_index, nil,
     {:lenient, :groups, "no number for a group type whose number is not from 0 to 4"},
     """
     the number of each group type.
     An event with groups gets a property `$group_N` for each of their types that has a number.
     """},
    {:insert_ids, false, :boolean,
     """
     whether each event gets a property `$insert_id`.
     It is a UUIDv7 that stays the same in every retry, so that an ingest can find duplicates.
     """},
    {:person_profiles, nil, {:one_of, [:always, :never, :identified_only, nil]},
     """
     which events create a profile of their person.
     It sets the property `$process_person_profile` of each event that does not have it. `:identified_only` are
     `$identify`, `$create_alias`, `$groupidentify`, and events with `$set`, `$set_once` or groups. With nil the
     property is not set, and the ingest decides.
     """},
    {:geoip_resolution_level, nil, :word,
     """
     how precisely the ingest locates the address that a request comes from.
     It is sent as the header `x-geoip-resolution-level`. With nil the ingest decides. Use `"none"` on servers: the
     address is the server's, not the user's.
     """}
  ]

  @spool [
    {:spool_dir, nil, :directory,
     """
     a directory in which events are also kept on disk until they are delivered, so that they outlive the VM.
     It is created if it does not exist. Only one client of one VM can use it at a time.
     """},
    {:max_spool_bytes, 256 * @mib, {:integer, 1, :bytes},
     """
     the largest size of all files in the spool.
     The oldest events are dropped first.
     """},
    {:max_spool_age, 7 * @day, {:integer, 1, :ms},
     """
     the time for which an event is kept in the spool.
     """},
    {:spool_sync, :interval, {:one_of, [:interval, :always]},
     """
     when calls wait for the disk.
     With `:interval` an event is on disk at most 100 ms after its capture. With `:always`, `flush/2` and `shutdown/1`
     also wait until the events that they could not deliver are on disk.
     """}
  ]

  @groups [
    {"Client", @client},
    {"Requests", @requests},
    {"Queue and flushes", @queue},
    {"Events", @events},
    {"Spool", @spool}
  ]

  @rows Enum.flat_map(@groups, &elem(&1, 1))
  @names Enum.map(@rows, &elem(&1, 0))
  @request_names Enum.map(@requests, &elem(&1, 0))
  @types Map.new(@rows, fn {name, _default, type, _doc} -> {name, type} end)
  @defaults Map.new(@rows, fn {name, default, _type, _doc} -> {name, default} end)

  @doc false
  # Returns `[{title, rows}]`.
  def groups, do: @groups

  @doc false
  def names, do: @names

  @doc false
  # Returns the names of the options that a `:transport` has as its parts.
  def request_names, do: @request_names

  @doc false
  # Returns a map of all options.
  def defaults, do: @defaults

  @doc false
  # Returns nil for an unknown option.
  def type(name), do: @types[name]

  @doc false
  # Returns the options of `values`, as the native library reads them.
  def to_native(values) do
    for {name, value} <- values, type = type(name), into: %{}, do: {name, Type.to_native(type, value)}
  end
end
