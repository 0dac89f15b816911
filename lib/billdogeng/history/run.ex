defmodule BilldogEng.History.Run do
  @moduledoc false
  # Sends the events of a file. The work is native: this checks options, starts the run, and looks how far it is.

  alias BilldogEng.Client.{Native, Options, Suggestion, Using}
  alias BilldogEng.Client.Options.Schema
  alias BilldogEng.Error

  @own [:client, :csv, :map, :dry_run, :resume, :rate, :retry_for, :progress]
  @fields [:event, :distinct_id, :timestamp, :properties, :groups]
  @retry_for 300_000
  # Between two looks, in ms: doubled from the first to the last.
  @pauses 1..100
  @stdin_bytes 64 * 1024

  # Returns `{:ok, summary}` or `{:error, error}`, see `BilldogEng.send_file/2`. `"-"` is standard input.
  def send(path, opts) do
    with :ok <- known(opts),
         {own, client} = Keyword.split(Options.keywords!(opts), @own),
         {:ok, order} <- order(path, own),
         {:ok, native} <- native(client, own[:client], order.dry_run),
         {:ok, run} <- start(native, order) do
      began = System.monotonic_time()
      if order.path == nil, do: feed(run)
      ended = wait(run, own[:progress] || fn _ -> :ok end, @pauses.first)
      seconds = System.convert_time_unit(System.monotonic_time() - began, :native, :millisecond) / 1_000
      {:ok, summary(ended, order, seconds)}
    end
  rescue
    error in ArgumentError -> invalid(Exception.message(error))
  end

  defp start(native, order) do
    with nil <- Native.load_error(),
         {:ok, run} <- Native.send_file(native, order) do
      {:ok, run}
    else
      {:error, reason} -> {:error, Error.new(reason, 0, "FILE_ERROR")}
      reason -> {:error, Error.new("the native library can't be loaded: #{reason}", 0, "NOT_LOADED")}
    end
  end

  # ── options ──

  defp known(opts) do
    names = Schema.names() ++ @own

    case Keyword.keys(Options.keywords!(opts)) -- names do
      [] -> :ok
      unknown -> invalid("unknown: #{Suggestion.listed(Enum.uniq(unknown), names)}")
    end
  end

  defp order(path, own) do
    with {:ok, place} <- place(path, own[:resume] == true),
         {:ok, fields} <- fields(own[:map] || []),
         :ok <- boolean(own, [:csv, :dry_run, :resume]),
         :ok <- integer(own, :rate, 1),
         :ok <- integer(own, :retry_for, 0) do
      {:ok,
       Map.merge(fields, %{
         path: place,
         beside: place || "stdin",
         csv: own[:csv] || false,
         dry_run: own[:dry_run] || false,
         resume: own[:resume] || false,
         rate: own[:rate],
         retry_for: own[:retry_for] || @retry_for
       })}
    end
  end

  defp place("-", true), do: invalid(":resume needs a file: standard input can't be read again")
  defp place("-", false), do: {:ok, nil}
  defp place(path, _) when is_binary(path) and path != "", do: {:ok, path}
  defp place(path, _), do: invalid("expected the path of a file, got: #{inspect(path)}")

  defp fields(map) do
    good? = &match?({field, name} when field in @fields and is_binary(name) and name != "", &1)

    if Keyword.keyword?(map) and Enum.all?(map, good?) do
      {:ok, Map.merge(Map.new(@fields, &{&1, Atom.to_string(&1)}), Map.new(map))}
    else
      invalid(
        "invalid value for :map: expected the fields #{Enum.map_join(@fields, ", ", &inspect/1)} with the names " <>
          "that they have in the file, such as [event: \"name\"], got: #{inspect(map)}"
      )
    end
  end

  defp boolean(own, names) do
    case Enum.find(names, &(own[&1] not in [nil, true, false])) do
      nil ->
        :ok

      name ->
        invalid("invalid value for #{inspect(name)}: expected true or false, got: #{inspect(own[name])}")
    end
  end

  defp integer(own, name, least) do
    case own[name] do
      nil ->
        :ok

      value when is_integer(value) and value >= least and value < 1_000_000_000_000 ->
        :ok

      value ->
        invalid(
          "invalid value for #{inspect(name)}: expected an integer from #{least}, got: #{inspect(value)}"
        )
    end
  end

  # Returns the options of the client that the events are of. A dry run needs no key.
  defp native(given, module, dry_run?) do
    configured = if module, do: Using.options(module), else: []
    opts = configured |> Keyword.merge(given) |> Keyword.drop([:name, :spool_dir, :mode])
    {:ok, checked} = Options.parse(Keyword.put(opts, :mode, :disabled))

    cond do
      dry_run? ->
        {:ok, checked.native}

      checked.native.api_key == "" ->
        invalid(":api_key is missing or blank")

      true ->
        {:ok, options} = Options.parse(Keyword.put(opts, :mode, :live))
        {:ok, options.native}
    end
  end

  defp invalid(message), do: {:error, Error.new(message, 0, "INVALID_OPTION")}

  # ── the run ──

  # Bytes as they are: the VM decodes its standard input otherwise.
  defp feed(run) do
    spawn_link(fn ->
      :io.setopts(:standard_io, binary: true, encoding: :latin1)
      feed(run, :standard_io)
    end)
  end

  defp feed(run, device) do
    case IO.binread(device, @stdin_bytes) do
      content when is_binary(content) and content != "" ->
        push(run, content)
        feed(run, device)

      _eof ->
        Native.send_file_feed(run, "")
    end
  end

  defp push(run, content) do
    unless Native.send_file_feed(run, content) do
      Process.sleep(1)
      push(run, content)
    end
  end

  defp wait(run, report, pause) do
    progress = Native.send_file_progress(run)
    shown = Map.update!(progress, :failure, &(&1 && Error.from_native(&1)))
    report.(Map.delete(shown, :ended))

    case progress.ended do
      nil ->
        Process.sleep(pause)
        wait(run, report, min(2 * pause, @pauses.last))

      {error, kept_from} ->
        Map.merge(shown, %{error: error && Error.from_native(error), kept_from: kept_from})
    end
  end

  defp summary(ended, order, seconds) do
    rejected = order.beside <> ".rejected"

    %{
      read: ended.read,
      sent: ended.sent,
      delivered: ended.delivered,
      rejected: ended.rejected,
      kept: if(order.dry_run, do: 0, else: ended.read - ended.delivered - ended.rejected),
      kept_from: ended.kept_from,
      resumed: ended.resumed,
      seconds: seconds,
      rejected_file: if(not order.dry_run and ended.rejected > 0, do: rejected),
      examples: ended.examples,
      error: ended.error
    }
  end
end
