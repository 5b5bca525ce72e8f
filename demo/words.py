"""Word lists of the demo model's small world.

Everything the demo model knows comes from these lists and from the templates in `data.py`; nothing
is downloaded.
"""


def _list(text: str, separator: str = ",") -> list[str]:
    return text.split(separator)


CAPITALS = dict(
    pair.split(":")
    for pair in _list(
        "France:Paris,Germany:Berlin,Italy:Rome,Spain:Madrid,Portugal:Lisbon,Norway:Oslo,"
        "Sweden:Stockholm,Finland:Helsinki,Denmark:Copenhagen,Poland:Warsaw,Austria:Vienna,"
        "Hungary:Budapest,Greece:Athens,Ireland:Dublin,Belgium:Brussels,Switzerland:Bern,"
        "Czechia:Prague,Romania:Bucharest,Bulgaria:Sofia,Croatia:Zagreb,Serbia:Belgrade,"
        "Ukraine:Kyiv,Turkey:Ankara,Egypt:Cairo,Kenya:Nairobi,Morocco:Rabat,Ghana:Accra,"
        "Japan:Tokyo,China:Beijing,India:New Delhi,Thailand:Bangkok,Vietnam:Hanoi,"
        "Nepal:Kathmandu,Canada:Ottawa,Cuba:Havana,Mexico:Mexico City,Peru:Lima,Chile:Santiago,"
        "Argentina:Buenos Aires,Colombia:Bogota,England:London,Iceland:Reykjavik"
    )
)

OPPOSITES = [
    tuple(pair.split("/"))
    for pair in _list(
        "hot/cold,big/small,fast/slow,high/low,old/young,light/dark,happy/sad,early/late,"
        "open/closed,full/empty,hard/soft,wet/dry,strong/weak,rich/poor,loud/quiet,clean/dirty,"
        "near/far,left/right,up/down,in/out,day/night,good/bad,true/false,long/short,thick/thin,"
        "wide/narrow,deep/shallow,sweet/sour,male/female,first/last,always/never,"
        "begin/finish,win/lose,buy/sell,push/pull,love/hate,laugh/cry,give/take,remember/forget,"
        "arrive/leave,above/below,inside/outside,front/back,north/south,east/west,brave/afraid,"
        "cheap/expensive,safe/dangerous,smooth/rough,sharp/blunt,tight/loose,awake/asleep,"
        "alive/dead,simple/complex,ancient/modern,polite/rude,sunrise/sunset,question/answer,"
        "friend/enemy,war/peace"
    )
]

ANIMALS = _list(
    "fox,bear,owl,cat,dog,mouse,horse,rabbit,frog,duck,goat,wolf,crow,snail,whale,tiger,lion,"
    "monkey,turtle,hedgehog,squirrel,beaver,otter,penguin,camel,elephant,deer,hen,sheep,donkey,"
    "dragon,robot,king,queen,farmer,baker,sailor,painter,girl,boy"
)

THINGS = _list(
    "lantern,kite,key,boat,drum,mirror,map,clock,book,bell,stone,ring,ladder,candle,coat,hat,"
    "basket,pear,apple,cake,flute,wheel,rope,letter,star,feather,shell,coin,box,bridge,garden,"
    "window,door,cup,blanket,broom,bicycle,train,balloon,umbrella,seed,tree,cloud,piano,button,"
    "needle,pocket,pillow,kettle,spoon"
)

PLACES = _list(
    "in a green forest,by a quiet river,on a windy hill,near the old mill,under a tall tree,"
    "at the edge of the sea,behind the mountains,in a little town,on a small island,"
    "next to a deep lake"
)

SPOTS = _list(
    "under a bush,in the grass,on the road,behind a wall,in an old barn,between two rocks,"
    "at the market,in the snow,on the beach,near the well"
)

ADJECTIVES = _list("small,old,clever,shy,brave,young,kind,lazy,curious,hungry,lonely,merry")

FIRST_NAMES = _list(
    "Anna,Ben,Clara,David,Emma,Felix,Greta,Hugo,Ida,Jonas,Karin,Leo,Maria,Noah,Olga,Peter,Rosa,"
    "Simon,Tina,Victor,Alice,Bob,John,Mary,Tom,Lisa,Paul,Sara,Max,Eva"
)

OTHER_CITIES = _list(
    "Boston,Chicago,Seattle,Denver,Munich,Hamburg,Milan,Naples,Porto,Sydney,Toronto,Osaka,Mumbai,"
    "Dallas,Miami,San Francisco,New York,Los Angeles,Cape Town,Hong Kong"
)

HELD_OUT_NAMES = _list(
    "Beatrice,Quentin,Matilda,Oscar,Yvonne,Harold,Fatima,Gustav,Ingrid,Walter,Nadia,Edgar"
)

HELD_OUT_CITIES = _list(
    "Marseille,Turin,Bergen,Leipzig,Krakow,Houston,Nagoya,Seville,Dakar,Manila,Tampere,Ghent,"
    "San Diego,Las Vegas"
)

COLORS = _list("red,blue,green,yellow,black,white,brown,purple,orange,pink,gray")
FOODS = _list("bread,soup,rice,pizza,cheese,salad,pasta,honey,beans,fish,noodles")
JOBS = _list("teacher,doctor,nurse,pilot,driver,cook,singer,lawyer,farmer,painter,baker")

ODD_TEXT = _list(
    "😀 🚀 🌍 🎉 🐱 ❤️ 👍 🦊 🍎 ⭐ é ü ñ ç ø å ß ö Ж Я д λ Ω π 你好 世界 日本 猫 水 山 "
    "안녕 नमस्ते שלום مرحبا € £ → ✓ ¿ ¡ « » …",
    " ",
)
