defmodule BilldogEng.Terms.Budget do
  @moduledoc false
  # Bounds the work that a caller's term can cause, before anything prints, encodes or copies it.
  #
  # Terms share parts: a term of 100 words can print as gigabytes, and `inspect/1` limits each container, not
  # the whole. These walks count a part as often as a printer meets it, and end at their bound. A unit is one
  # term, or 64 bytes of a binary.

  import Bitwise

  # Terms that one text may be made of. `inspect/1` takes 2 µs for each.
  @printed 10_000
  # Terms that an app's own implementation of a protocol may be given.
  @most 1024 * 1024
  # A printed term takes as long as so many that are only looked at.
  @printing 16

  # The elements of a container and the bytes of a binary that `inspect/1` prints.
  @shown 50
  @shown_bytes 4_096

  @smallest -0x8000_0000_0000_0000
  @largest 0x7FFF_FFFF_FFFF_FFFF

  def most, do: @most

  # Returns the rest of `left` units after a walk over the whole term; negative if it has more.
  def walk(term, left), do: walk(term, left, :all)

  # The same, but structs count as one term, except for sets.
  def walk_plain(term, left), do: walk(term, left, :plain)

  # The same as `walk/2`, and of functions what they close over: all that a message to a process copies.
  def walk_copied(term, left), do: walk(term, left, :copied)

  # Whether a text of `term` may be made, by `inspect/1` or any code of the app, and its cost in units.
  def text(term) do
    case walk(term, @shown) do
      left when left >= 0 -> {:ok, (@shown - left) * @printing}
      _ -> long_text(term, walk_shown(term, @printed))
    end
  end

  defp long_text(_term, shown_left) when shown_left < 0, do: {:over, @printed}

  defp long_text(term, shown_left) do
    case walk(term, @most) do
      left when left < 0 -> {:over, div(@most, 8)}
      left -> {:ok, (@printed - shown_left) * @printing + div(@most - left, 8)}
    end
  end

  def printable?(term), do: match?({:ok, _cost}, text(term))

  # `inspect/1`, or a cut text.
  def inspect(term), do: if(printable?(term), do: Kernel.inspect(term), else: cut(term))

  # The text in place of a term that is too large to print.
  def cut(%{__struct__: module}) when is_atom(module), do: "#Truncated<#{Kernel.inspect(module)}>"
  def cut(term) when is_map(term), do: "#Truncated<map>"
  def cut(term) when is_list(term), do: "#Truncated<list>"
  def cut(term) when is_tuple(term), do: "#Truncated<tuple>"
  def cut(term) when is_integer(term), do: "#Truncated<integer>"
  def cut(_term), do: "#Truncated<>"

  # ── the whole term ──

  defp walk(_term, left, _kind) when left < 0, do: left
  defp walk([head | tail], left, kind), do: list(tail, walk(head, left - 1, kind), kind)

  defp walk(tuple, left, kind) when is_tuple(tuple) do
    if tuple_size(tuple) < left, do: tuple(tuple, tuple_size(tuple), left - 1, kind), else: -1
  end

  defp walk(%{__struct__: module}, left, :plain) when is_atom(module) and module != MapSet, do: left - 1

  defp walk(map, left, kind) when is_map(map) do
    if map_size(map) < left, do: pairs(:maps.to_list(map), left - 1, kind), else: -1
  end

  defp walk(function, left, :copied) when is_function(function) do
    {:env, env} = :erlang.fun_info(function, :env)
    list(env, left - 1, :copied)
  end

  defp walk(integer, left, :plain) when is_integer(integer), do: left - 1
  defp walk(term, left, _kind), do: left - scalar(term)

  defp list(_list, left, _kind) when left < 0, do: left
  defp list([head | tail], left, kind), do: list(tail, walk(head, left, kind), kind)
  defp list([], left, _kind), do: left
  defp list(improper, left, kind), do: walk(improper, left, kind)

  defp tuple(_tuple, index, left, _kind) when index == 0 or left < 0, do: left

  defp tuple(tuple, index, left, kind),
    do: tuple(tuple, index - 1, walk(elem(tuple, index - 1), left, kind), kind)

  defp pairs([{key, value} | rest], left, kind) when left >= 0,
    do: pairs(rest, walk(value, walk(key, left, kind), kind), kind)

  defp pairs(_rest, left, _kind), do: left

  # ── what `inspect/1` shows of it ──

  defp walk_shown(_term, left) when left < 0, do: left
  defp walk_shown([_ | _] = list, left), do: shown_list(list, @shown, left - 1)

  defp walk_shown(tuple, left) when is_tuple(tuple) do
    shown_tuple(tuple, min(tuple_size(tuple), @shown), left - 1 - (tuple_size(tuple) >>> 5))
  end

  # All its pairs are listed first.
  defp walk_shown(map, left) when is_map(map) do
    map |> :maps.iterator() |> :maps.next() |> shown_pairs(@shown, left - 1 - (map_size(map) >>> 5))
  end

  defp walk_shown(bytes, left) when is_bitstring(bytes),
    do: left - 1 - (min(byte_size(bytes), @shown_bytes) >>> 6)

  defp walk_shown(term, left), do: left - scalar(term)

  defp shown_list([head | tail], more, left) when more > 0 and left >= 0,
    do: shown_list(tail, more - 1, walk_shown(head, left))

  defp shown_list(rest, _more, left) when is_list(rest), do: left
  defp shown_list(improper, _more, left), do: walk_shown(improper, left)

  defp shown_tuple(_tuple, index, left) when index == 0 or left < 0, do: left

  defp shown_tuple(tuple, index, left),
    do: shown_tuple(tuple, index - 1, walk_shown(elem(tuple, index - 1), left))

  defp shown_pairs({key, value, rest}, more, left) when more > 0 and left >= 0,
    do: rest |> :maps.next() |> shown_pairs(more - 1, walk_shown(value, walk_shown(key, left)))

  defp shown_pairs(_rest, _more, left), do: left

  # ── scalars ──

  defp scalar(bytes) when is_bitstring(bytes), do: 1 + (byte_size(bytes) >>> 6)

  # Digits take quadratic time.
  defp scalar(integer) when is_integer(integer) and (integer < @smallest or integer > @largest) do
    words = :erts_debug.flat_size(integer)
    1 + ((words * words) >>> 4)
  end

  defp scalar(_term), do: 1
end
