defmodule BilldogEng.Exceptions.Stacktrace do
  @moduledoc false
  # A stacktrace of the VM as the frames of an `$exception`: outermost first, where the VM's are innermost
  # first, and with arities only, for a frame of the VM may hold the arguments themselves.
  #
  # Which frames are the app's own is read from the tables of loaded applications alone. Asking a process,
  # such as the code server, could lock up the VM: it may be that very process that crashed.

  alias BilldogEng.Terms.Budget

  # Of the innermost ones; `:erlang.system_flag(:backtrace_depth, _)` may be anything.
  @most 100

  # Anything that isn't a frame is left out. `in_app` is a list of applications, or nil for `own_apps/1`'s.
  def frames(stacktrace, in_app) do
    frames = stacktrace |> entries(@most, []) |> Enum.flat_map(&frame/1)
    apps = :application.loaded_applications() |> Enum.map(&elem(&1, 0))
    own = if is_list(in_app), do: in_app, else: own_apps(apps)
    owners = owners(frames, apps)

    for frame <- frames do
      %{
        "filename" => frame.file,
        "function" => frame.function,
        "lineno" => frame.line,
        "in_app" => own?(frame.module, Map.get(owners, frame.module), own),
        "module" => inspect(frame.module)
      }
    end
  end

  # Where it happened: the innermost frame of the app's own, else the innermost; nil where there is none.
  def place(frames) do
    innermost_first = Enum.reverse(frames)

    case Enum.find(innermost_first, & &1["in_app"]) || List.first(innermost_first) do
      nil -> nil
      frame -> frame["function"]
    end
  end

  def stacktrace?([_ | _] = list), do: proper?(list)
  def stacktrace?(_other), do: false

  defp proper?([{module, function, arity, location} | rest])
       when is_atom(module) and is_atom(function) and (is_integer(arity) or is_list(arity)) and
              is_list(location),
       do: proper?(rest)

  defp proper?([{function, arity, location} | rest])
       when is_function(function) and (is_integer(arity) or is_list(arity)) and is_list(location),
       do: proper?(rest)

  defp proper?(end_of_list), do: end_of_list == []

  # ── frames ──

  # Reverses them. A caller's list may end in anything.
  defp entries([entry | rest], left, taken) when left > 0, do: entries(rest, left - 1, [entry | taken])
  defp entries(_end, _left, taken), do: taken

  defp frame({module, function, arity, location}) when is_atom(module) and is_atom(function) do
    [frame(module, Exception.format_mfa(module, function, arity(arity)), location)]
  catch
    _, _ -> []
  end

  defp frame({function, arity, location}) when is_function(function) do
    {:module, module} = Function.info(function, :module)
    [frame(module, "anonymous fn/#{arity(arity)} in #{inspect(module)}", location)]
  catch
    _, _ -> []
  end

  defp frame(_other), do: []

  defp frame(module, name, location) do
    line = location[:line]

    %{
      module: module,
      function: name,
      file: file(location[:file]),
      line: if(is_integer(line) and line > 0, do: line)
    }
  end

  # A path may be a charlist, and one of a caller's own making any term.
  def file(nil), do: nil
  def file(path) when is_binary(path), do: path
  def file(path) when is_list(path), do: if(Budget.printable?(path), do: List.to_string(path))
  def file(_other), do: nil

  # The VM's largest.
  defp arity(arguments) when is_list(arguments), do: arguments |> length() |> arity()
  defp arity(arity) when arity in 0..255, do: arity

  # ── whose code ──

  # Of no application is what a script or a shell defines, and the VM's own modules.
  defp own?(module, nil, _own), do: module not in :erlang.pre_loaded()
  defp own?(_module, app, own), do: app in own

  # Those that use this library, and those that use them: the app, in an umbrella those of it that are built on
  # the one with the client.
  defp own_apps(apps) do
    uses = for app <- apps, into: %{}, do: {app, key(app, :applications) ++ key(app, :included_applications)}
    users([:billdogeng], uses, [])
  end

  defp users([], _uses, found), do: found

  defp users(used, uses, found) do
    more = for {app, list} <- uses, app not in found, Enum.any?(used, &(&1 in list)), do: app
    users(more, uses, more ++ found)
  end

  # One walk over the modules of all applications, in place of one for each frame.
  defp owners(frames, apps) do
    wanted = Map.new(frames, &{&1.module, true})
    for app <- apps, module <- key(app, :modules), is_map_key(wanted, module), into: %{}, do: {module, app}
  end

  defp key(app, key) do
    case :application.get_key(app, key) do
      {:ok, list} when is_list(list) -> list
      _ -> []
    end
  end
end
