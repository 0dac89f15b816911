# The script behind bin/dialyzer. The `dialyzer` command cannot read Elixir's modules without the paths of all of them.

modules =
  for beam <- Path.wildcard("_build/test/lib/billdogeng/ebin/*.beam"),
      {:ok, {module, [compile_info: info, debug_info: {:debug_info_v1, backend, data}]}} =
        :beam_lib.chunks(String.to_charlist(beam), [:compile_info, :debug_info]),
      # The tests' support is compiled into the same folder.
      not String.contains?(to_string(info[:source]), "/test/support/"),
      {:ok, forms} = backend.debug_info(:erlang_v1, module, data, []),
      do: %{name: module, beam: String.to_charlist(beam), forms: forms}

if modules == [], do: raise("no modules in _build/test: mix compile comes before this")

defmodule Mentions do
  # The modules whose functions or types are named somewhere in a module, and its behaviours.
  def of({:remote, _, {:atom, _, module}, name}, found), do: of(name, [module | found])
  def of({:remote_type, _, [{:atom, _, module}, _, types]}, found), do: of(types, [module | found])
  def of({:attribute, _, :behaviour, module}, found), do: [module | found]
  def of(term, found) when is_tuple(term), do: term |> Tuple.to_list() |> of(found)
  def of([head | tail], found), do: of(tail, of(head, found))
  def of(_, found), do: found
end

own = MapSet.new(modules, & &1.name)

# Of Erlang and Elixir only what the library uses, and two modules whose types are those of DateTime and :inet. All of them
# would take minutes.
known =
  for module <-
        [Calendar, :file | Enum.flat_map(modules, &Mentions.of(&1.forms, []))] |> Enum.uniq() |> Enum.sort(),
      module not in own,
      path = :code.which(module),
      path != :non_existing do
    if path == :preloaded,
      do: :erts |> :code.lib_dir() |> Path.join("ebin/#{module}.beam") |> String.to_charlist(),
      else: path
  end

key = for path <- known, {:ok, {_, md5}} = :beam_lib.md5(path), do: md5
name = :sha256 |> :crypto.hash(key) |> Base.encode16(case: :lower) |> binary_part(0, 16)
plt = "_build/dialyzer/#{name}.plt"

unless File.exists?(plt) do
  IO.puts("bin/dialyzer: #{length(known)} modules of Erlang and Elixir are learned, into #{plt}")
  File.rm_rf!(Path.dirname(plt))
  File.mkdir_p!(Path.dirname(plt))
  # Renamed when it is whole.
  part = String.to_charlist(plt <> ".part")
  :dialyzer.run(analysis_type: :plt_build, output_plt: part, files: known, warnings: [])
  File.rename!(part, plt)
end

warnings =
  :dialyzer.run(
    analysis_type: :succ_typings,
    init_plt: String.to_charlist(plt),
    files: Enum.map(modules, & &1.beam),
    warnings: [:unknown, :extra_return, :missing_return]
  )

# Libraries that an app may have or not, and this machine has not: Elixir's compiler ignores them.
optional? = fn
  {:warn_unknown, _, {_, {module, _, _}}} -> :code.which(module) == :non_existing
  {:warn_unknown, _, {_, {module, _}}} -> :code.which(module) == :non_existing
  _ -> false
end

warnings = Enum.reject(warnings, optional?)
for warning <- warnings, do: IO.write(:dialyzer.format_warning(warning))
IO.puts("bin/dialyzer: #{length(modules)} modules, #{length(warnings)} warnings")
if warnings != [], do: System.halt(1)
